"""A cluster of two Ray nodes on this machine, and the whole path on it. A program, since a process has one Ray only.

two_nodes.py CONFIG.yaml: the cluster has one node with one CPU at first, and gets the second when the workers wait. Prints
the addresses of the nodes that the workers were on, and what `evaluate` found, as JSON.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def main(file: str) -> None:
    import ray
    from ray.cluster_utils import Cluster
    from ray.util.placement_group import placement_group_table

    from unlearnrec.cluster import pipeline
    from unlearnrec.cluster.config.schema import load_config
    from unlearnrec.cluster.output.session import Session

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    config = load_config(file, [f"cluster.address={cluster.address}"])

    def path() -> dict[str, Any]:
        pipeline.ingest(config)
        with Session(config).workers() as group:
            group.form()
            nodes = {ray.get(actor.listen.remote(None)).value.node for actor in group._actors}
            pipeline.train(config, group=group)
            pipeline.pretrain(config, group=group)
            status = pipeline.forget(config, users="1,3", group=group)["status"]
            measured = pipeline.evaluate(config, group=group)
        return {"nodes": len(nodes), "status": status, "recall@20": measured["recall@20"]}

    ray.init(address=cluster.address, log_to_driver=False)
    with ThreadPoolExecutor(1) as pool:
        try:
            walked = pool.submit(path)
            # As an autoscaler does: when somebody waits. Ray starts nodes in the main thread only.
            while not walked.done() and not any(g["state"] == "PENDING" for g in placement_group_table().values()):
                time.sleep(0.2)
            if not walked.done():
                cluster.add_node(**node)
            print(json.dumps(walked.result()))
        finally:
            ray.shutdown()  # the cluster keeps a node to which somebody is connected
            cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
