"""A DAG of Airflow: new data and a new model every week; deletion requests every hour; a purge every night.

Each task is one command, so a failed task can be run again: commands find out themselves what is done. Exit codes: 0 done,
1 failed, 2 bad input, 3 a quality gate failed: the version is committed, and a retrain is due. CONFIG names a place that all
machines of Airflow see; the workers run on the Ray cluster that it names (`cluster.address`).
"""

from datetime import datetime

from airflow import DAG
from airflow.operators.bash import BashOperator

CONFIG = "/opt/recommender/run.yaml"
DEFAULTS = {"retries": 2, "start_date": datetime(2026, 1, 1)}

with DAG("recommender_weekly", schedule="@weekly", catchup=False, default_args=DEFAULTS):
    ingest = BashOperator(task_id="ingest", bash_command=f"unlearnrec ingest --config {CONFIG}")
    # The old model serves and forgets until the new one, which can forget too, takes its place.
    retrain = BashOperator(task_id="retrain", bash_command=f"unlearnrec retrain --resume --config {CONFIG}")
    evaluate = BashOperator(task_id="evaluate", bash_command=f"unlearnrec evaluate --json --config {CONFIG}")
    export = BashOperator(
        task_id="export",
        bash_command=f"unlearnrec export --to s3://my-bucket/recommendations --top-k 50 --config {CONFIG}",
    )
    ingest >> retrain >> evaluate >> export

with DAG("recommender_deletions", schedule="@hourly", catchup=False, default_args=DEFAULTS):
    # A table to which the data protection team adds rows: user_id, item_id, since, until.
    BashOperator(
        task_id="forget",
        bash_command="unlearnrec forget --requests s3://my-bucket/deletions/{{ ts_nodash }}.parquet "
        f"--request-id deletions-{{{{ ts_nodash }}}} --config {CONFIG}",
    )

with DAG("recommender_purge", schedule="@daily", catchup=False, default_args=DEFAULTS):
    purge = BashOperator(task_id="purge", bash_command=f"unlearnrec purge --config {CONFIG}")
    verify = BashOperator(task_id="verify", bash_command=f"unlearnrec status --verify --config {CONFIG}")
    purge >> verify
