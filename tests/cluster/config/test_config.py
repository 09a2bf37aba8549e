"""The configuration: the contract's keys and defaults, and messages that say what would be right."""

import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import unlearnrec
from unlearnrec.cluster.config.model_sections import BACKBONES
from unlearnrec.cluster.config.schema import Config, load_config, parse_config, to_yaml
from unlearnrec.partitioning.errors import InputError

PLACES = ["interactions=in.parquet", "output=out"]

CONTRACT = """
test_interactions: null
seed: 0
columns: {user: user_id, item: item_id, time: null, value: null}
storage: {endpoint_url: null, region: null, anonymous: false}
cluster: {address: null, partitions: 2, cpus_per_worker: 1, gpus_per_worker: 0}
partitioning: {strategy: metis, halo: pull}
backbone: {name: lightgcn, embedding_size: 64, num_layers: 3}
train: {epochs: 30, batch_size: 16384, learning_rate: 0.01, loss: bpr}
influence: {num_layers: 3, mlp_layers: 2}
pretrain: {epochs: 30, learning_rate: 0.003, objective: counterfactual}
forget: {fine_tune_steps: 0, grace_seconds: 0, retention_hours: 0}
evaluate: {k: [20]}
"""


def test_defaults_are_the_contracts():
    config = load_config(None, PLACES).model_dump(mode="json")
    for key, value in yaml.safe_load(CONTRACT).items():
        if isinstance(value, dict):
            assert {inner: config[key][inner] for inner in value} == value, key
        else:
            assert config[key] == value, key


def test_a_resolved_configuration_reads_back_as_the_same(tmp_path: Path):
    config = load_config(None, [*PLACES, "train.learning_rate=1e-3", "evaluate.k=[5, 20]", "columns.time=when"])
    path = tmp_path / "config.yaml"
    path.write_text(to_yaml(config))
    assert load_config(path) == config


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path: Path):
    path = tmp_path / "config.yaml"
    path.write_text("interactions: a\noutput: b\ntrain: {epochs: 3, loss: softmax}\npretrain:\n")
    config = load_config(path, ["train.epochs=4", "train.epochs=5"])
    assert (config.train.epochs, config.train.loss, config.pretrain.epochs) == (5, "softmax", 30)


@pytest.mark.parametrize("url", ["http://localhost:9000", "http://minio/", "https://ref.supabase.co/storage/v1/s3"])
def test_an_endpoint_may_have_a_path(url: str):
    assert load_config(None, [*PLACES, f"storage.endpoint_url={url}"]).storage.endpoint_url == url


def test_numbers_in_scientific_notation_are_numbers():
    assert load_config(None, [*PLACES, "train.learning_rate=1e-3"]).train.learning_rate == 0.001


def test_frozen():
    config = load_config(None, PLACES)
    with pytest.raises(ValidationError):
        config.train.epochs = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("serve.route_prefix=/a/", "serve.route_prefix: got '/a/', expected a path such as /runs/shop"),
        ("train.epochs=0", "train.epochs: got 0 (int), expected an integer >= 1"),
        ("train.epochs=many", "train.epochs: got 'many' (str), expected an integer >= 1"),
        ("train.epochs=2.5", "train.epochs: got 2.5 (float), expected an integer >= 1"),
        ("train.epochs=true", "train.epochs: got True (bool), expected an integer >= 1"),
        ("train.learning_rate=.inf", "train.learning_rate: got inf (float), expected a number > 0"),
        (
            "cluster.gpus_per_worker=0.5",
            "cluster.gpus_per_worker: got 0.5, expected 0 or at least 1 with 2 partitions",
        ),
        (
            "storage.endpoint_url=localhost:9000",
            "storage.endpoint_url: got 'localhost:9000', expected http://host:port",
        ),
        ("storage.endpoint_url=http:///s3", "storage.endpoint_url: got 'http:///s3', expected http://host:port"),
        ("watch.columns.usr=u", "watch.columns.usr: unknown key; did you mean 'user'?"),
        ("watch.columns.user=3", "watch.columns.user: got 3 (int), expected a string"),
        (
            "watch={kind: requests, columns: {user: u}}",
            "watch.columns: got a section, which only watch.kind 'deletions'",
        ),
        ("watch.poll_seconds=0", "watch.poll_seconds: got 0 (int), expected a number >= 0.05"),
        ("train.epcohs=3", "train.epcohs: unknown key; did you mean 'epochs'?"),
        ("trian.epochs=3", "trian: unknown key; did you mean 'train'?"),
        ("backbone.name=bert", f"backbone.name: got 'bert' (str), expected one of {', '.join(BACKBONES)}"),
        ("evaluate.k=20", "evaluate.k: got 20 (int), expected a list of at least 1 values, each an integer >= 1"),
        ("evaluate.k=[]", "evaluate.k: got [] (list), expected a list of at least 1 values"),
        ("evaluate.k=[5, 0]", "evaluate.k[1]: got 0 (int), expected an integer >= 1"),
        ("cluster.threads_per_worker=0", "cluster.threads_per_worker: got 0 (int), expected an integer >= 1 or null"),
        ("columns.user=null", "columns.user: got null, expected a string"),
        ("train=3", "train: got 3 (int), expected a section with keys epochs"),
        ("partitioning.strategy=file", "partitioning.assignment: strategy 'file' needs the path"),
        ("partitioning.assignment=a", "partitioning.assignment: got 'a', which only strategy 'file' reads"),
        ("train.epochs", "'train.epochs' on the command line: expected section.key=value"),
        ("=3", "'=3' on the command line: expected section.key=value"),
        ("seed.deep=3", "seed: got {'deep': 3} (dict), expected an integer >= 0"),
        ("train.epochs=[1", "not valid YAML"),
    ],
)
def test_a_mistake_names_path_value_and_what_is_right(override: str, message: str):
    with pytest.raises(InputError, match=re.escape(message)):
        load_config(None, [*PLACES, override])


def test_all_mistakes_are_named_at_once():
    with pytest.raises(InputError) as caught:
        parse_config({"interactions": "a", "train": {"epochs": 0, "l2": -1}})
    assert all(part in str(caught.value) for part in ("output: missing", "train.epochs", "train.l2"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "expected `key: value` lines, got list"),
        ("train: {epochs: 1}\ntrain: {epochs: 2}\n", "the key 'train' stands twice"),
        ("train: {epochs: [1}\n", "not valid YAML"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_the_example_configurations_load():
    examples = sorted((Path(unlearnrec.__file__).parent / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        assert isinstance(load_config(path), Config)
