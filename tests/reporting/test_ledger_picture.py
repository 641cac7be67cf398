"""Does the picture of the ledger show each claim once, in its verdict's colour, and large where real records decide?"""

import io

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from tipslib.reporting.claims import Finding, Verdict, claims
from tipslib.reporting.display import SYMBOLS
from tipslib.reporting.ledger import Entry, digest, draw_ledger, picture

CLAIMS = list(claims().values())


def entry(i, verdict, profile):
    return Entry(CLAIMS[i], Finding(verdict, 1.0, None, 1, "made up"), profile)


ENTRIES = [
    entry(0, Verdict.HOLDS, "laptop"),
    entry(1, Verdict.FAILS, "smoke"),
    entry(-2, Verdict.UNDECIDED, "gpu"),
    entry(-1, Verdict.NOT_RUN, None),
]
TITLES = {e.claim.page: f"Page {e.claim.page}: what is it about?" for e in ENTRIES}


def test_every_claim_has_its_square():
    figure = draw_ledger(ENTRIES, TITLES)
    squares = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert [square.get_width() for square in squares] == [0.8, 0.5, 0.8, 0.5]
    assert [to_hex(square.get_edgecolor()).upper() for square in squares] == [SYMBOLS[e.finding.verdict][1].upper() for e in ENTRIES]
    assert [square.get_facecolor()[3] > 0 for square in squares] == [True, True, True, False]
    assert CLAIMS[0].page == CLAIMS[1].page != CLAIMS[-1].page == CLAIMS[-2].page
    assert [(round(s.get_x() + s.get_width() / 2), round(s.get_y() + s.get_height() / 2)) for s in squares] == [
        (0, 0),
        (1, 0),
        (0, 1),
        (1, 1),
    ]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"Page {page}" for page in TITLES]
    assert [text.get_text().split(": ")[1] for text in figure.legends[0].get_texts()] == ["1", "1", "1", "1"]


def test_the_file_says_what_it_shows():
    with Image.open(io.BytesIO(picture(ENTRIES, TITLES))) as image:
        assert image.info["Description"] == digest(ENTRIES)


@pytest.mark.parametrize(
    "changed", [entry(0, Verdict.UNDECIDED, "laptop"), entry(0, Verdict.HOLDS, "gpu"), entry(2, Verdict.HOLDS, "laptop")]
)
def test_the_digest_depends_on_claim_verdict_and_profile(changed):
    assert digest([changed, *ENTRIES[1:]]) != digest(ENTRIES)
