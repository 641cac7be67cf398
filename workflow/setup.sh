#!/bin/sh
# Makes .venv from requirements.lock. It may be interrupted and repeated: what is there is completed, not made again.
set -eu

ready() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
pip() { .venv/bin/python -m pip --disable-pip-version-check --cache-dir .venv/cache/pip "$@"; }

if ! .venv/bin/python -m pip --version >/dev/null 2>&1 && ! .venv/bin/python -m ensurepip >/dev/null 2>&1; then
	for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python}; do
		if ready "$candidate"; then found=$candidate && break; fi
	done
	if [ -z "${found:-}" ]; then
		echo "Python 3.11 or later is wanted; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true)" >&2
		echo 'Install it, or say where it is: make setup PYTHON=/path/to/python3' >&2
		exit 1
	fi
	if ! "$found" -m venv --clear .venv; then
		echo 'The venv module does not work here. On Debian or Ubuntu: apt-get install python3-venv' >&2
		exit 1
	fi
fi
if ! ready .venv/bin/python; then
	echo "Python 3.11 or later is wanted, and .venv has $(.venv/bin/python --version). Remove .venv, then repeat" >&2
	exit 1
fi

# what an interrupted installation left half-done would pass for installed
for info in .venv/lib/python3*/site-packages/*.dist-info; do
	[ ! -d "$info" ] || [ -f "$info/RECORD" ] || rm -rf "$info"
done

# PyTorch's CPU build, where it was installed before, needs none of the GPU libraries
wanted=.venv/requirements.txt
if .venv/bin/python -c 'import sys; from importlib.metadata import version; sys.exit("+cpu" not in version("torch"))' 2>/dev/null; then
	grep -vE '^(cuda|nvidia|triton)' requirements.lock >"$wanted"
else
	cp requirements.lock "$wanted"
fi
[ -t 1 ] && quiet= || quiet=--quiet
echo 'setting up .venv: the first time this fetches about 3 GB and takes some minutes'
pip install $quiet --no-deps -r "$wanted"
pip install $quiet --no-deps --no-build-isolation -e .
rm -rf .venv/cache/pip
touch .venv/.ready
