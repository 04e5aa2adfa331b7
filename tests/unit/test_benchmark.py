"""The comparison of systems: rows, means, paired differences and resumption; what a data set needs and what it can lack."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

import models
import training.evaluation.modality_ablation
from models.popular import Popular
from models.reliability import Reliability, ReliabilityBin
from stream.cli.benchmark import app
from stream.core.interactions import Conversation
from stream.errors import IsthmusError
from stream.services.dataset_cache import training_code, training_keywords
from stream.services.trainer import TrainerOptions, example_source
from stream.settings import Settings
from stream.text.model import TextModel
from tests.purchases import ITEMS, mixed_purchases, purchases
from training.datasets.synthetic.write_tables import write_tables
from training.datasets.tables.reader import InteractionRow, Tables, read_tables
from training.evaluation.benchmark import (
    ResultRow,
    Run,
    RunStore,
    Splits,
    TooSmallError,
    compare,
    differences,
    mean_of,
    paired_difference,
    read_runs,
    result_rows,
    split_examples,
)
from training.evaluation.benchmark_report import markdown, plot
from training.evaluation.modality_ablation import (
    AblationRow,
    Point,
    Variant,
    ablate,
    ablation_rows,
    points_of,
    report,
    variant_trainer,
    variants_of,
    verdict,
)
from training.evaluation.results_page import crossing, page, read_corpora, write_page
from training.evaluation.unseen_items import Draw, UnseenRow, without
from training.example_arrays import newest_text_model

TYPES = np.array(["session", "conversation", "both", "session"])


def run(system: str, seed: int, *precisions: float) -> Run:
    hits = tuple(float(precision > 0) for precision in precisions)
    return Run(data="d", system=system, seed=seed, train_s=2.0, hits=hits, average_precisions=precisions)


def fixed(order: Sequence[str]) -> Popular:
    """Returns a ranker that ranks the items in this order for every user."""
    prior = np.array([len(order) - order.index(item) for item in ITEMS], dtype=np.float32)
    return Popular("0", "f", ITEMS, prior / prior.sum())


def test_there_is_a_row_for_each_system_seed_and_event_type() -> None:
    """Types that do not occur and systems that were left out have none."""
    rows = result_rows([run("a", 1, 1, 0.5, 0, 0), Run(data="d", system="b", seed=1, left_out="no calls")], TYPES)
    assert rows == [
        ResultRow("a", 1, "conversation", 1, 1.0, 0.5, 2.0),
        ResultRow("a", 1, "session", 2, 0.5, 0.5, 2.0),
        ResultRow("a", 1, "both", 1, 0.0, 0.0, 2.0),
        ResultRow("a", 1, "union", 4, 0.5, 0.375, 2.0),
    ]
    assert msgspec.json.decode(msgspec.json.encode(rows[0])).keys() == {
        "system", "seed", "event_type", "events", "hr3", "map3", "train_s",
    }  # fmt: skip


def test_differences_are_paired_by_event_over_the_seeds_that_both_have() -> None:
    """Seed 2 of `a` has no counterpart and is ignored."""
    runs = [run("late_fusion", 0, 0, 0, 0, 0), run("late_fusion", 1, 1, 1, 1, 1), run("a", 0, 1, 0, 0, 0), run("a", 1, 1, 1, 1, 0)]
    by_key = differences([*runs, run("a", 2, 0, 0, 0, 0)], TYPES)
    paired = np.array([0.5, 0, 0, -0.5])
    assert by_key["a", "union"].mean == pytest.approx(0)
    assert by_key["a", "union"].error == pytest.approx(paired.std(ddof=1) / 2)
    assert by_key["a", "session"].mean == pytest.approx(0)
    assert ("late_fusion", "union") not in by_key
    assert differences([run("a", 0, 1, 1, 1, 1)], TYPES) == {}


def test_the_sign_flip_test_keeps_its_level() -> None:
    """About 5 % of noise is significant at 5 %; a clear difference always is."""
    rng = np.random.default_rng(0)
    noise = [paired_difference(rng.normal(size=60), flips=500).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(noise) <= 0.05) < 0.09
    assert paired_difference(rng.normal(1, 1, 60)).p <= 0.001
    assert paired_difference(np.zeros(10)).p == 1.0


def test_an_interrupted_comparison_resumes(tmp_path: Path) -> None:
    """Finished runs are not repeated; a run whose line was cut short is, and runs of other data are ignored."""
    parts = split_examples(purchases(200))
    trained: list[tuple[str, int]] = []

    def train(system: str, seed: int, given: Splits) -> Popular:
        assert given is parts
        trained.append((system, seed))
        if system == "silent":
            raise TooSmallError("no calls")
        return fixed(ITEMS)

    file = tmp_path / "r.runs.jsonl"
    first = compare(["a", "silent"], [0], parts, train, RunStore(file, "d", "c"))
    assert first[1].left_out == "no calls"
    file.write_bytes(file.read_bytes()[:-5])
    again = compare(["a", "silent"], [0, 1], parts, train, RunStore(file, "d", "c"))
    assert trained == [("a", 0), ("silent", 0), ("silent", 0), ("a", 1), ("silent", 1)]
    assert again[0] == first[0]
    assert compare(["a"], [0], parts, train, RunStore(file, "d", "c")) == first[:1]
    compare(["a"], [0], parts, train, RunStore(file, "other", "c"))
    assert trained[-1] == ("a", 0)
    compare(["silent"], [1], parts, train, RunStore(file, "d", "newer"))
    assert trained[-1] == ("silent", 1)


def test_runs_without_one_result_per_event_are_ignored(tmp_path: Path) -> None:
    """The comparison repeats them and the results page leaves them out; so too with a line that was cut short."""
    parts, trained = split_examples(purchases(200)), []

    def train(system: str, seed: int, given: Splits) -> Popular:
        trained.append((system, seed, len(given.test)))
        return fixed(ITEMS)

    file = tmp_path / "r.runs.jsonl"
    whole = compare(["a"], [0, 1, 2], parts, train, RunStore(file, "d", "c"))
    first, second, _ = file.read_bytes().splitlines()
    fewer = msgspec.structs.replace(whole[2], hits=whole[2].hits[1:])
    file.write_bytes(b"\n".join([first, second[:-9], msgspec.json.encode(fewer)]))
    assert read_runs(file) == whole[:1]
    assert read_corpora(tmp_path)[0].seeds == {"a": [0]}
    shorter = {"hits": (1.0,), "average_precisions": (1.0,), "event_types": "s"}
    file.write_bytes(first + b"\n" + msgspec.json.encode(msgspec.structs.replace(whole[1], **shorter)))
    assert read_corpora(tmp_path)[0].seeds == {"a": [0]}
    trained.clear()
    assert compare(["a"], [0, 1], parts, train, RunStore(file, "d", "c"))[1].hits == whole[1].hits
    assert trained == [("a", 1, 20)]


def test_the_results_page_shows_the_code_of_the_last_run_and_reads_files_without_one(tmp_path: Path) -> None:
    """Results of two versions of the code are not mixed in one table."""
    file = tmp_path / "sgd.runs.jsonl"
    for code, seed in (("", 0), ("", 1), ("newer", 0)):
        made = msgspec.to_builtins(msgspec.structs.replace(run("a", seed, 1, 0, 1, 0), event_types="scbs", code=code))
        named = made if code else {name: value for name, value in made.items() if name != "code"}
        with file.open("ab") as opened:
            opened.write(msgspec.json.encode(named) + b"\n")
        (corpus,) = read_corpora(tmp_path)
        assert corpus.seeds == {"a": [0] if code else list(range(seed + 1))}


def test_the_code_hash_depends_on_the_sources_and_the_versions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It changes with a network or a library's version; the ablation's code matters to ablations only."""
    known = training_code("torch 1")
    assert training_code("torch 1") == known
    assert training_code("torch 2") != known
    assert training_code("torch 1", "thin") != known
    shutil.copytree(Path(models.__path__[0]), tmp_path / "models")
    (tmp_path / "models" / "networks" / "keyword.py").write_text("changed")
    monkeypatch.setattr(models, "__path__", [str(tmp_path / "models")])
    assert training_code("torch 1") != known


def test_a_report_holds_means_errors_differences_and_what_was_left_out(tmp_path: Path) -> None:
    """And names the significance test."""
    runs = [run("late_fusion", 0, 0, 1, 0, 0), run("late_fusion", 1, 0, 1, 1, 0), run("a", 0, 1, 1, 1, 1), run("a", 1, 1, 1, 1, 1)]
    text = markdown([*runs, Run(data="d", system="b", seed=0, left_out="no calls")], TYPES, {"data": "somewhere"})
    assert "0.375 / 0.375 ± 0.125" in text.replace("0.375 ± 0.125 / 0.375 ± 0.125", "0.375 / 0.375 ± 0.125")
    assert "+0.6250" in text
    assert "sign-flip" in text
    assert "Left out: b (no calls)." in text
    assert "somewhere" in text
    assert "tenth" not in text
    plot(result_rows(runs, TYPES), "a plot", tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5_000


def test_a_report_holds_the_reliability_of_systems_with_probabilities() -> None:
    """Means over the seeds: of the error, and of each bin's probability and share bought."""
    found = [
        Reliability(error, (ReliabilityBin(0.1, 0.1 - error, 5), ReliabilityBin(0.8, 0.8 + error, 5))) for error in (0.02, 0.04)
    ]
    runs = [msgspec.structs.replace(run("a", seed, 1, 1, 1, 1), reliability=one) for seed, one in enumerate(found)]
    text = markdown([*runs, run("b", 0, 1, 1, 1, 1)], TYPES, {})
    assert "| a      | 0.0300 | 0.100 0.070 | 0.800 0.830 |" in text
    assert text.count("| b ") == 1


def test_the_results_page_pools_draws_event_by_event_and_tests_the_findings(tmp_path: Path) -> None:
    """Two draws of four events, two seeds; the verdict on a finding follows from the numbers."""
    for draw, flip in enumerate((0.0, 1.0)):
        runs = RunStore(tmp_path / f"sgd{draw}.runs.jsonl", f"d{draw}", "c")
        for system, score in (("late_fusion", 0.5), ("session", 0.25), ("latent_feature", 0.75)):
            for seed, moved in enumerate((-0.04, 0.04)):
                precisions = [*[score + moved] * 3, flip] * 20
                made = run(system, seed, *precisions)
                runs.add(msgspec.structs.replace(made, data=f"d{draw}", event_types="scbs" * 20))
        (tmp_path / f"sgd{draw}.md").write_text(f"# Benchmark\n\n- command: number {draw}\n")
    (corpus,) = read_corpora(tmp_path)
    assert corpus.draws == ("sgd0", "sgd1")
    assert {system: len(by_seed) for system, by_seed in corpus.hits.items()} == dict.fromkeys(corpus.precisions, 2)
    text = page([corpus], [])
    assert "160 test events (40 conversation, 80 session, 40 both); 2 draws pooled." in text
    late = next(line for line in text.splitlines() if line.startswith("| late_fusion"))
    assert late.split("|")[6].strip() == "0.875 ± .000 / 0.500 ± .030"  # hits: 7 of 8
    assert "command: number 1" in text
    assert "each on its own events: holds (latent_feature on session events +0.2500" in text
    rows = [AblationRow(system, 0, "session", share, "conversation", 9, share / 100 * gain, 1.0)
            for system, gain in (("keyword", 0.2), ("latent_feature", 0.1)) for share in (0, 100)]  # fmt: skip
    assert "gains most from the other modality's events: holds (session-only events: keyword +0.2000" in crossing(rows)


def test_the_results_page_goes_to_an_existing_folder_only(tmp_path: Path) -> None:
    """The default is relative to the repository's root; anywhere else the error says what to do."""
    with pytest.raises(IsthmusError, match="--out FILE"):
        write_page(tmp_path, tmp_path / "nowhere" / "RESULTS.md")
    with pytest.raises(IsthmusError, match=r"holds no \*\.runs\.jsonl"):
        write_page(tmp_path, tmp_path / "RESULTS.md")
    made = msgspec.structs.replace(run("a", 0, 1, 0, 1, 0), event_types="scbs")
    (tmp_path / "sgd.runs.jsonl").write_bytes(msgspec.json.encode(made))
    assert write_page(tmp_path, tmp_path / "RESULTS.md") == ["sgd"]
    assert "## sgd" in (tmp_path / "RESULTS.md").read_text()


def test_too_few_test_events_are_refused() -> None:
    """A tenth of 90 is 9, and 10 are needed."""
    with pytest.raises(TooSmallError, match="at least 10"):
        split_examples(purchases(90))


def mixed(count: int) -> Splits:
    kinds = ("session", "conversation", "both", "session")
    examples = [msgspec.structs.replace(one, type=kinds[n % 4]) for n, one in enumerate(purchases(count))]
    return Splits(examples, examples, examples)


def test_an_ablation_removes_events_of_one_type_and_smaller_shares_are_subsets_of_larger_ones() -> None:
    """Test events stay the same."""
    parts = mixed(80)
    few, half, all_ = (ablate(parts, Variant("a", "session", share), 3) for share in (25, 50, 100))
    assert [sum(one.type == "session" for one in part.training) for part in (few, half, all_)] == [10, 20, 40]
    assert {one.purchase_id for one in few.training} < {one.purchase_id for one in half.training}
    assert [one for one in few.training if one.type != "session"] == [one for one in parts.training if one.type != "session"]
    assert few.test is parts.test
    assert list(all_.training) == list(parts.training)


def test_the_verdict_follows_from_runs_with_and_without_the_other_modality(tmp_path: Path) -> None:
    """Session-only events help a system that ranks well only after training on sessions."""
    parts = split_examples(mixed(400).training)
    names = [variant.name for variant in variants_of(["a"], parts.types)]
    assert len(set(names)) == 7

    def train(system: str, seed: int, given: Splits) -> Popular:
        del seed
        assert system == "a"
        return fixed(ITEMS if any(one.type == "session" for one in given.training) else ITEMS[::-1])

    ours = Splits(parts.training, parts.validation, [msgspec.structs.replace(one, items=(ITEMS[0],)) for one in parts.test])
    runs = compare(list(dict.fromkeys(names)), [0, 1], ours, variant_trainer(train, ["a"]), RunStore(tmp_path / "r", "d", "c"))
    sentences = verdict(points_of(runs, ["a"], ours.types))
    assert len(sentences) == 2
    assert "having the session-only events helps the conversation-only events" in sentences[0]
    assert "has no significant effect on" in sentences[1]


def test_only_what_can_be_evaluated_is_ablated_and_what_was_left_out_is_named(tmp_path: Path) -> None:
    """Without conversation-only test events, sessions are not ablated, and there is no row without events."""
    parts = split_examples([msgspec.structs.replace(one, type="both") if n % 3 else one for n, one in enumerate(purchases(200))])
    variants = variants_of(["a", "silent"], parts.types)
    assert {variant.ablated for variant in variants} == {"conversation"}

    def train(system: str, seed: int, given: Splits) -> Popular:
        del seed, given
        if system == "silent":
            raise TooSmallError("no calls")
        return fixed(ITEMS)

    trainer = variant_trainer(train, ["a", "silent"])
    runs = compare([variant.name for variant in variants], [0], parts, trainer, RunStore(tmp_path / "r", "d", "c"))
    rows = ablation_rows(runs, ["a", "silent"], parts.types)
    assert {(row.system, row.thinned, row.events > 0) for row in rows} == {("a", "conversation", True)}
    text = report(points_of(runs, ["a", "silent"], parts.types), runs, {})
    assert "Left out: silent with 25 % of conversation-only (no calls)." in text
    assert not variants_of(["a"], np.array(["both"]))


def test_the_plot_of_an_ablation_shows_every_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where there are more systems than colours."""
    drawn: list[Figure] = []
    monkeypatch.setattr(training.evaluation.modality_ablation, "save", lambda figure, _: drawn.append(figure))
    systems = [f"s{number}" for number in range(8)]
    points = [Point(Variant(system, "session", share), mean_of([0.5]), None) for system in systems for share in (0, 100)]
    training.evaluation.modality_ablation.plot(points, "thinned", tmp_path / "p.png")
    (axes,) = drawn[0].axes
    assert axes.get_legend_handles_labels()[1] == systems


def test_keywords_come_from_the_training_part_alone() -> None:
    """Words of validation and test calls are not listed, however many users say them."""
    count = 100
    rows = [InteractionRow(f"u{event}", event, 1, f"c{event}", None) for event in range(count)]
    conversations = {f"c{event}": [("user", "roof damage" if event < 81 else "leaky cellar")] for event in range(count)}
    tables = Tables(rows, {}, conversations, {event: ["x"] for event in range(count)}, {}, {"x": "Ex"})
    assert training_keywords(tables).listed == ("damage", "roof", "roof damage")


def test_training_on_tables_uses_these_keywords_and_names_the_text_model_to_serve_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An encoder with the named folder serves the trained model. A text model that the settings name is used unchanged."""
    settings = Settings(cache_dir=cache_of(tmp_path))
    options = TrainerOptions(system="isthmus", data=tables_of_calls(tmp_path / "tables", 40))
    load, names = example_source(settings, options, print)[:2]
    examples, printed = load(), capsys.readouterr().out
    assert list(names()) == ["x"]
    folder = next((tmp_path / "cache" / "benchmark").glob("*/text-model"))
    assert f"encoder.text_model to {folder}" in printed
    assert ", 3 keywords)" in printed
    assert newest_text_model(examples) == TextModel(folder).hash
    calls = [one for example in examples for one in example.interactions if isinstance(one, Conversation)]
    assert {call.keywords for call in calls} == {("roof", "damage", "roof damage")}
    chosen = settings.encoder.model_copy(update={"text_model": tmp_path / "cache" / "text-model"})
    load, *_ = example_source(settings.model_copy(update={"encoder": chosen}), options, print)
    assert newest_text_model(load()) == TextModel(tmp_path / "cache" / "text-model").hash
    assert "keywords" not in capsys.readouterr().out


def tables_of_calls(folder: Path, count: int) -> Path:
    """Writes tables of so many users, each with one call of one sentence."""
    users = "".join(f"u{n},{n},1,c{n},\n" for n in range(count))
    sentences = "".join(f"c{n},1,user,my roof damage\n" for n in range(count))
    rows = {
        "data_users": "user_id,purchase_event_id,event_number,conversation_id,session_id\n" + users,
        "data_sessions": "session_id,action_number,action_tags\n",
        "data_conversations_text": "conversation_id,sentence_number,sentence_speaker,sentence\n" + sentences,
        "data_purchase_events": "purchase_event_id,item_id\n" + "".join(f"{n},x\n" for n in range(count)),
        "data_post_filter": "purchase_event_id,item_id\n",
    }
    folder.mkdir()
    for name, text in rows.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_tables(folder, 150, 0)
    return folder


def benchmark(data: Path, out: Path, *options: str) -> tuple[list[ResultRow], str]:
    """Runs the command, with `out` given without its suffix."""
    result = CliRunner().invoke(app, ["--data", str(data), "--out", str(out.with_suffix("")), *options])
    assert result.exit_code == 0, (result.output, result.exception)
    return msgspec.json.decode(out.read_bytes(), type=list[ResultRow]), result.output


def test_the_command_writes_rows_a_report_and_a_plot(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples are encoded once and cached; Popular equals a computation by hand."""
    monkeypatch.setenv("ISTHMUS_CACHE_DIR", str(cache_of(tmp_path)))
    rows, output = benchmark(world, tmp_path / "r.json", "--systems", "popular", "--seeds", "2")
    assert {(row.system, row.seed) for row in rows} == {("popular", 0), ("popular", 1)}
    union = next(row for row in rows if row.event_type == "union")
    assert union.events == 15
    assert union.map3 == pytest.approx(popular_by_hand(read_tables(world)), abs=1e-6)
    assert f"{union.hr3:.3f}" in (tmp_path / "r.md").read_text()
    assert re.search(r"- text model: [0-9a-f]{16} \((static|onnx), \w+, \d+ keywords\)", (tmp_path / "r.md").read_text())
    assert (tmp_path / "r.png").exists()
    assert "encoding, once for this data" in output
    _, output = benchmark(world, tmp_path / "r.json", "--systems", "popular", "--seeds", "2")
    assert "encoding" not in output


def test_items_are_taken_out_of_training_and_judged(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Popularity cannot know them, and does when it was trained on all. Rows say what was drawn; a second call trains nothing."""
    monkeypatch.setenv("ISTHMUS_CACHE_DIR", str(cache_of(tmp_path)))
    options = ("--systems", "popular", "--seeds", "2", "--unseen", "2")
    _, output = benchmark(world, tmp_path / "u.json", *options)
    rows = msgspec.json.decode((tmp_path / "u.json").read_bytes(), type=list[UnseenRow])
    by = {(row.system, row.seed, row.event_type): row for row in rows}
    assert {row.system for row in rows} == {
        name for system in ("popular", "text similarity") for name in (system, f"{system}, trained on all")
    }
    for seed in range(2):
        unseen, whole = by["popular", seed, "unseen"], by["popular, trained on all", seed, "unseen"]
        assert len(unseen.items) == 2
        assert unseen.events + by["popular", seed, "seen"].events == 15
        assert unseen.map3 == 0
        assert unseen.place is not None
        assert whole.place is not None
        assert unseen.place > whole.place
    assert by["popular", 0, "unseen"].items != by["popular", 1, "unseen"].items
    seen = by["popular", 0, "seen"]
    assert seen.map3_hidden == seen.map3  # popularity does not show them
    assert "- not shown" in output
    runs = (tmp_path / "u.runs.jsonl").read_bytes()
    benchmark(world, tmp_path / "u.json", *options)
    assert (tmp_path / "u.runs.jsonl").read_bytes() == runs


def test_what_came_before_an_unseen_purchase_is_gone_from_all_examples() -> None:
    """Its event, its interactions where they precede other events too, what others own of it, and keywords that only it had."""
    first, other, later = mixed_purchases(3)
    first = msgspec.structs.replace(first, items=("gone",))
    later = msgspec.structs.replace(
        later, user_id=first.user_id, owned=("gone", "item-1"), interactions=(*first.interactions, *later.interactions)
    )
    splits = without(Splits([first, other, later], [later], [first]), Draw(0, frozenset({"gone"})), frozenset())
    assert [example.user_id for example in splits.training] == [other.user_id, first.user_id]
    assert splits.training[1].owned == ("item-1",)
    assert len(splits.training[1].interactions) == len(later.interactions) - len(first.interactions)
    assert [example.items for example in splits.test] == [("gone",)]
    kept = [one for part in (splits.training, splits.test) for example in part for one in example.interactions]
    assert {keyword for one in kept if isinstance(one, Conversation) for keyword in one.keywords} == set()


def test_data_without_conversations_can_be_compared_too(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Systems that need calls are left out with the reason; an item that nobody bought does no harm."""
    monkeypatch.setenv("ISTHMUS_CACHE_DIR", str(cache_of(tmp_path)))
    tables, silent = read_tables(world), tmp_path / "silent"
    silent.mkdir()
    users = [row for row in tables.interactions if row.session_id is not None]
    lines = [f"{row.user_id},{row.purchase_event_id},{row.event_number},,{row.session_id}" for row in users]
    (silent / "data_users.csv").write_text("\n".join(["user_id,purchase_event_id,event_number,conversation_id,session_id", *lines]))
    for name in ("data_sessions.csv.gz", "data_purchase_events.csv.gz", "data_post_filter.csv.gz"):
        (silent / name).write_bytes((world / name).read_bytes())
    (silent / "items.csv").write_text((world / "items.csv").read_text() + "never,Nobody wants this\n")
    rows, output = benchmark(silent, tmp_path / "s.json", "--systems", "popular,conversation", "--seeds", "1")
    assert {row.system for row in rows} == {"popular"}
    assert {row.event_type for row in rows} == {"session", "union"}
    assert "Left out: conversation" in output


def test_wrong_use_is_refused_with_advice(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown system, no tables, too little data."""
    monkeypatch.setenv("ISTHMUS_CACHE_DIR", str(cache_of(tmp_path)))

    def refusal(data: Path, systems: str) -> str:
        outcome = CliRunner().invoke(app, ["--data", str(data), "--out", str(tmp_path / "x.json"), "--systems", systems])
        assert isinstance(outcome.exception, IsthmusError), outcome.output
        return str(outcome.exception)

    assert "late_fusion" in refusal(world, "lucky")
    assert "is not a folder" in refusal(tmp_path / "nothing", "popular")
    write_tables(tmp_path / "tiny", 20, 0)
    assert "at least 10" in refusal(tmp_path / "tiny", "popular")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.md", "name it FILE.json"),
        ("run.v1", "name it FILE.json"),
        ("folder", "is a folder"),
        ("mine.txt/a.json", "mine.txt cannot be written"),
        ("taken.json", "taken.md cannot be written"),
    ],
)
def test_an_unusable_place_for_results_is_refused_before_anything_is_read(tmp_path: Path, name: str, message: str) -> None:
    """The files beside the results must overwrite neither them nor other files."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken.md").mkdir()
    (tmp_path / "mine.txt").write_text("mine")
    outcome = CliRunner().invoke(app, ["--data", str(tmp_path / "nothing"), "--out", str(tmp_path / name)])
    assert isinstance(outcome.exception, IsthmusError), outcome.output
    assert message in str(outcome.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "mine.txt", "taken.md"]


def test_refused_data_leaves_no_files(tmp_path: Path) -> None:
    """A name without a suffix is completed, a missing folder created, an earlier result left alone."""
    (tmp_path / "old.json").write_text("old")
    for name in ("new/run", "old"):
        outcome = CliRunner().invoke(app, ["--data", str(tmp_path / "nothing"), "--out", str(tmp_path / name)])
        assert "is not a folder" in str(outcome.exception)
    assert [*(tmp_path / "new").iterdir()] == []
    assert (tmp_path / "old.json").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old.json"]


def cache_of(folder: Path) -> Path:
    """Returns the test's own cache, with the text model that set-up made."""
    from stream.connection_settings import CACHE

    cache = folder / "cache"
    cache.mkdir(exist_ok=True)
    if not (cache / "text-model").exists():
        (cache / "text-model").symlink_to(CACHE / "text-model")
    return cache


def popular_by_hand(tables: Tables) -> float:
    """Returns MAP@3 of ranking by purchase counts in the first 90 % of the events, computed from the tables."""
    with_history = sorted({row.purchase_event_id for row in tables.interactions})
    border = len(with_history) - round(len(with_history) / 10)
    known = [item for event in with_history[:border] for item in tables.purchases[event]]
    order = sorted(tables.items, key=lambda item: -known.count(item))
    total = 0.0
    for event in with_history[border:]:
        ranked = [item for item in order if item in tables.allowed[event]][:3]
        bought = set(tables.purchases[event])
        hits = [item in bought for item in ranked]
        total += sum(sum(hits[: at + 1]) / (at + 1) for at in range(3) if hits[at]) / min(3, len(bought))
    return total / len(with_history[border:])
