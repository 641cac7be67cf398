"""How do jobs become pods on a volume that all of them see? By Snakemake's executor for Kubernetes, told that there is one."""

from dataclasses import replace

import snakemake_executor_plugin_kubernetes as kubernetes
from snakemake_executor_plugin_kubernetes import ExecutorSettings

__all__ = ["Executor", "ExecutorSettings", "common_settings"]

# files, sources and environment are on the volume: nothing goes through an object store, nothing is installed in a pod
common_settings = replace(
    kubernetes.common_settings,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_default_storage_provider_args=False,
    auto_deploy_default_storage_provider=False,
)


class Executor(kubernetes.Executor):
    """Snakemake's executor, which can also tell what a failed pod said."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # it asks for the log of an earlier start; a job's pod is started once, so that is refused and ends the batch with a traceback
        read = self.kubeapi.read_namespaced_pod_log
        self.kubeapi.read_namespaced_pod_log = lambda previous, **request: read(**request)
