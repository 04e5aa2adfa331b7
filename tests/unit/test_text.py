"""The encoder stage and the text model: every transcript is encoded or a dead letter, and no text gets out."""

import json
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from typer.testing import CliRunner

from stream.cli.main import app
from stream.core.events import NATIVE_FORMAT_HEADER, EncodedCall, Reason, Sentence, Source, Transcript
from stream.core.records import Batch, PlainRecord
from stream.errors import IsthmusError
from stream.services.text_models import default_folder, with_stand_in
from stream.settings import Settings
from stream.text.distill import identity, reduced, weighted
from stream.text.encode_stage import Encoded, TranscriptFormat, encode_batch
from stream.text.export_onnx import PACKAGED, import_encoder, quantize
from stream.text.keywords import MOST, Keywords, keywords_of, standing_in
from stream.text.model import EncoderFacts, TextModel, encoder_facts, finish_folder, verified_hash, with_keywords
from training.datasets.synthetic.write_tables import write_tables

START = 1_700_000_000_000


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """The packaged encoder with a small keyword list."""
    folder = tmp_path_factory.mktemp("text")
    with_keywords(default_folder(Settings().cache_dir), folder, Keywords(["car", "car insurance", "flood"]))
    return TextModel(folder)


def transcript(*texts: str, **fields: object) -> Transcript:
    sentences = tuple(Sentence(text, "customer") for text in texts)
    return Transcript(**{"user_id": "u", "conversation_id": "c", "started_at": START, "sentences": sentences, **fields})  # type: ignore[arg-type]


def encode(model: TextModel, *values: bytes | None, key: bytes | None = b"u") -> Encoded:
    records = [PlainRecord(offset, START + 9, key, value, [("h", b"x")]) for offset, value in enumerate(values)]
    return encode_batch(Batch(Source.CALL, "call-transcripts", 5, 2, records), model)


def test_a_transcript_becomes_a_vector_sum_keywords_and_its_origin(model: TextModel) -> None:
    """The sum over its sentences, the listed words, the transcript's coordinates, and the origin's broker time."""
    texts = ("My car insurance please.", "There was a flood!")
    encoded = encode(model, msgspec.json.encode(transcript(*texts, event_id="e1", ended_at=START + 5)))
    call = msgspec.msgpack.decode(encoded.calls[0].value or b"", type=EncodedCall)
    assert np.allclose(np.frombuffer(call.vector_sum, dtype="<f4"), model.encode(texts).sum(axis=0), atol=1e-5)
    assert call.keywords == ("car", "car insurance", "flood")
    assert (call.origin_topic, call.origin_epoch, call.origin_partition, call.origin_offset) == ("call-transcripts", 5, 2, 0)
    assert (call.sentences, call.ended_at, call.event_id, call.text_model) == (2, START + 5, "e1", model.hash)
    assert encoded.timestamps == [START + 9]


def test_the_number_of_a_piece_reaches_the_encoded_call(model: TextModel) -> None:
    """It identifies the part if the producer gave no id; without a number, the encoded call is as it was in 0.1.0."""
    encoded = encode(model, *(msgspec.json.encode(transcript("hello", piece=piece)) for piece in (3, None)))
    numbered, plain = (msgspec.msgpack.decode(call.value or b"") for call in encoded.calls)
    assert numbered["piece"] == 3
    assert "piece" not in plain


def test_transcripts_in_our_own_form_are_read_past_their_topics_mapping(model: TextModel) -> None:
    """What the API sends has our field names, whatever other producers of the topic send."""
    mapped = TranscriptFormat(lambda fields: {"user_id": fields.get("customer")})
    value = msgspec.json.encode(transcript("hello"))
    for headers in ([], [(NATIVE_FORMAT_HEADER, b"1")]):
        batch = Batch(Source.CALL, "call-transcripts", 5, 2, [PlainRecord(0, START + 9, b"u", value, headers)])
        assert len(encode_batch(batch, model, mapped).calls) == len(headers)


def test_vectors_are_of_length_one_whatever_shares_their_batch(model: TextModel) -> None:
    """Padding does not leak into a sentence's vector; a repeated sentence has the same one."""
    long = "I have been with you for many years and would like to hear about everything that you offer. " * 3
    together = model.encode(["ok", long, "ok"])
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert np.array_equal(together[0], together[2])
    assert np.allclose(together[0], TextModel(default_folder(Settings().cache_dir)).encode(["ok"])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("value", "key", "reason"),
    [
        (None, b"u", Reason.EMPTY),
        (b"{", b"u", Reason.NOT_JSON),
        (b"[" * 100_000, b"u", Reason.INVALID),
        (msgspec.json.encode(transcript("a")), None, Reason.MISSING_KEY),
        (msgspec.json.encode(transcript("a")), b"v", Reason.KEY_MISMATCH),
        (msgspec.json.encode(transcript(" ", "")), b"u", Reason.INVALID),
        (msgspec.json.encode(transcript("a", ended_at=START - 1)), b"u", Reason.INVALID),
        (msgspec.json.encode(transcript(*["a"] * 2_001)), b"u", Reason.INVALID),
    ],
)
def test_an_unusable_transcript_is_a_dead_letter_with_coordinates_only(
    model: TextModel, value: bytes | None, key: bytes | None, reason: Reason
) -> None:
    """Neither text nor key nor headers: those who may read the text read the origin."""
    encoded = encode(model, value, key=key)
    letter = msgspec.json.decode(encoded.dead_letters[0].value or b"")
    assert letter["reason"] == reason
    assert not {"key", "headers", "original"} & letter.keys()
    assert not encoded.calls


def test_a_call_ends_with_its_last_sentence_where_it_says_nothing_else(model: TextModel) -> None:
    """Its own end, else the last sentence's time, else its beginning."""
    timed = Transcript("u", "c", START, (Sentence("hello", "agent", START + 3), Sentence("bye", "agent", START + 8)))
    encoded = encode(model, msgspec.json.encode(timed), msgspec.json.encode(transcript("hello")))
    ends = [msgspec.msgpack.decode(call.value or b"", type=EncodedCall).ended_at for call in encoded.calls]
    assert ends == [START + 8, START]


def test_a_huge_sentence_costs_no_more_than_the_encoder_reads(model: TextModel) -> None:
    """It is cut; the call is encoded."""
    assert len(encode(model, msgspec.json.encode(transcript("word " * 200_000))).calls) == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
sentences = st.lists(
    st.fixed_dictionaries({"speaker": st.sampled_from(["agent", "customer", None, 3]), "text": st.text(max_size=12)}), max_size=3
)
nearly_transcripts = st.fixed_dictionaries(
    {"user_id": st.just("u") | json_values, "started_at": st.integers(0, 9) | json_values, "sentences": sentences | json_values},
    optional={"conversation_id": st.just("c") | json_values, "ended_at": st.integers(START, START + 9) | json_values},
).map(msgspec.json.encode)


@settings(max_examples=60)
@given(value=st.none() | st.binary(max_size=99) | nearly_transcripts)
def test_any_bytes_are_an_encoded_call_or_a_dead_letter(model: TextModel, value: bytes | None) -> None:
    """Each record exactly one of them."""
    encoded = encode(model, value)
    assert len(encoded.calls) + len(encoded.dead_letters) == 1


def test_no_text_gets_out(model: TextModel, caplog: pytest.LogCaptureFixture) -> None:
    """A planted secret is in no output and no log line, whether the transcript was usable or not."""
    secret = "Rumpelstiltskin"
    good = msgspec.json.encode(transcript(f"my name is {secret} and I drive a car"))
    bad = msgspec.json.encode(
        {"user_id": "u", "sentences": [{"speaker": secret, "text": secret}], "started_at": 1, "conversation_id": "c"}
    )
    encoded = encode(model, good, bad, good[:-1])
    outputs = [output.value or b"" for output in (*encoded.calls, *encoded.dead_letters)]
    assert len(outputs) == 3
    assert not any(secret.lower().encode() in output.lower() for output in outputs)
    assert secret not in caplog.text


def test_keywords_are_whole_words_and_neighbouring_pairs() -> None:
    """ "carpet" is no "car"; a pair needs its words side by side."""
    found = Keywords(["car", "home insurance", "dog"]).find(["The carpet at home. Insurance for my DOG?"])
    assert found == ("dog",)
    assert Keywords(["home insurance"]).find(["my home insurance"]) == ("home insurance",)


def test_a_call_has_at_most_sixty_four_keywords() -> None:
    """In order of first mention."""
    words = [f"{first}{second}x" for first in "abcdefghij" for second in "abcdefghij"]
    assert Keywords(words).find([" ".join(words)]) == tuple(words[:MOST])


def test_a_list_holds_what_enough_users_said_and_neither_numbers_nor_names() -> None:
    """A word of one user is personal; so is a word written as a name."""
    said = {f"user-{number}": ["I need travel insurance, says Matilda.", f"number {number} of mine"] for number in range(25)}
    said["one"] = ["zeppelin"]
    listed = keywords_of(said).listed
    assert {"travel", "insurance", "travel insurance"} <= set(listed)
    assert not {"matilda", "zeppelin", "7"} & set(listed)
    assert not any("matilda" in keyword for keyword in listed)


def test_the_first_list_is_made_of_the_catalogues_and_the_tags_words() -> None:
    """Until there are transcripts to make one of."""
    assert {"car", "insurance", "view"} <= set(standing_in(["Car insurance", "view_item"]).listed)


def test_a_text_model_stands_in_with_words_of_its_own_until_one_is_chosen(tmp_path: Path) -> None:
    """One that the settings name stays."""
    made = with_stand_in(Settings(), ["Car insurance"], tmp_path / "t")
    assert made.encoder.text_model is not None
    assert TextModel(made.encoder.text_model).keywords.listed == ("car", "car insurance", "insurance")
    assert with_stand_in(made, ["Boat"], tmp_path / "other") is made


def test_a_command_that_writes_a_text_model_writes_it_whatever_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `encoder.text_model` set, `stand-in --out` wrote nothing and ended with 0; so did `import --out` into a full folder."""
    write_tables(tmp_path / "world", 20, 0)
    monkeypatch.setenv("ISTHMUS_ENCODER__TEXT_MODEL", str(tmp_path / "mine"))
    command = ["text-model", "stand-in", "--data", str(tmp_path / "world"), "--out"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "first")]).exit_code == 0
    assert TextModel(tmp_path / "first").keywords.listed
    again = CliRunner().invoke(app, [*command, str(tmp_path / "second"), "--source", str(tmp_path / "nothing")])
    assert "is not a text model" in str(again.exception)
    assert not (tmp_path / "second" / "manifest.json").exists()


def test_an_import_into_a_folder_that_holds_a_text_model_says_so(tmp_path: Path) -> None:
    """It keeps what set-up would import, and refuses where something else was asked for."""
    with_keywords(default_folder(Settings().cache_dir), tmp_path / "m", Keywords(["car"]))
    arguments = ["text-model", "import", "--out", str(tmp_path / "m")]
    kept = CliRunner().invoke(app, arguments)
    assert (kept.exit_code, "is kept; --force makes it again" in kept.output) == (0, True)
    for other in (["--precision", "float32"], ["--encoder", "static", "--width", "32"], ["another-encoder"]):
        refused = CliRunner().invoke(app, [*arguments[:2], *other, *arguments[2:]])
        assert "--force replaces it" in str(refused.exception)


@pytest.mark.parametrize(
    ("arguments", "made"),
    [
        ([], "static, 256"),
        (["--encoder", "onnx"], "int8"),
        (["--precision", "float32"], "float32"),
        (["another-model"], "int8"),
        (["another-model", "--encoder", "static", "--width", "64"], "static, 64"),
    ],
)
def test_the_packaged_model_becomes_static_and_any_other_keeps_its_network_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], made: str
) -> None:
    """Only of the packaged one is it known what static costs. A precision asks for the network."""
    monkeypatch.setattr("stream.text.distill.distill_encoder", lambda *given: f"static, {given[-1]}")
    monkeypatch.setattr("stream.text.export_onnx.import_encoder", lambda *given: given[-1])
    imported = CliRunner().invoke(app, ["text-model", "import", *arguments, "--out", str(tmp_path / "m")])
    assert imported.output == f"text model {made} in {tmp_path / 'm'}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "static", "--precision", "int8"], "--precision is for --encoder onnx"),
        (["--encoder", "onnx", "--width", "64"], "--width is for --encoder static"),
        (["another-model", "--width", "64"], "--width is for --encoder static"),
    ],
)
def test_an_option_of_the_other_kind_of_encoder_is_refused(tmp_path: Path, arguments: list[str], said: str) -> None:
    """It would be ignored."""
    refused = CliRunner().invoke(app, ["text-model", "import", *arguments, "--out", str(tmp_path / "m")])
    assert said in str(refused.exception)


def test_another_keyword_list_is_another_text_model(model: TextModel, tmp_path: Path) -> None:
    """Its hash differs, so that a ranker trained for one never reads the other's facts."""
    assert with_keywords(default_folder(Settings().cache_dir), tmp_path / "t", Keywords(["other"])) != model.hash


def test_the_encoders_process_needs_no_torch() -> None:
    """600 MB that it does without."""
    import subprocess
    import sys

    code = "import sys, stream.text.model, stream.text.encode_stage, stream.services.encoder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_transcript_that_makes_the_encoder_raise_is_a_dead_letter_and_the_others_are_encoded(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order, with the same vectors; coordinates only, and no message of the exception."""
    values = [msgspec.json.encode(transcript(text)) for text in ("hello there", "a planted one", "my car", "good bye")]
    without = encode(model, values[0], values[2], values[3])
    inner = model.encode

    def touchy(texts: Sequence[str]) -> Any:
        if any("planted" in text for text in texts):
            raise IndexError(texts)
        return inner(texts)

    monkeypatch.setattr(model, "encode", touchy)
    encoded = encode(model, *values)
    letter = msgspec.json.decode(encoded.dead_letters[0].value or b"")
    assert (letter["reason"], letter["origin"]["offset"]) == ("poison", 1)
    assert "planted" not in str(letter)
    assert not {"key", "original"} & letter.keys()
    calls, wanted = (
        [msgspec.msgpack.decode(output.value or b"", type=EncodedCall) for output in found.calls] for found in (encoded, without)
    )
    assert [call.origin_offset for call in calls] == [0, 2, 3]
    for call, other in zip(calls, wanted, strict=True):
        np.testing.assert_allclose(np.frombuffer(call.vector_sum, "<f4"), np.frombuffer(other.vector_sum, "<f4"), atol=1e-5)
    assert encoded.sentences == 3


@pytest.fixture(scope="session")
def float32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged encoder with its matrices as they are."""
    folder = tmp_path_factory.mktemp("float32") / "text"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_encoder(PACKAGED, folder, standing_in([]), lambda _: None, "float32")
    return folder


@pytest.fixture(scope="session")
def int8_folder(float32_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged encoder with its matrices in 8 bits."""
    folder = shutil.copytree(float32_folder, tmp_path_factory.mktemp("int8") / "text")
    quantize(folder / "encoder.onnx")
    finish_folder(folder, standing_in([]), encoder_facts(folder)._replace(precision="int8"))
    return folder


@pytest.fixture(scope="session")
def static_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A static encoder of a few tokens, whose vectors tell which tokens a sentence has."""
    folder = tmp_path_factory.mktemp("static")
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "ok": 1, "car": 2, "flood": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "embeddings.npy", np.eye(4, dtype=np.float16) * np.array([[0], [1], [3], [4]], dtype=np.float16))
    finish_folder(folder, standing_in([]), EncoderFacts("static", 4, 8, "float16"))
    return folder


def test_a_static_encoder_gives_the_normalized_mean_of_its_tokens_vectors(static_folder: Path) -> None:
    """Rows come in the order of the sentences; a sentence without a token has a zero vector; what is too long is cut."""
    model = TextModel(static_folder)
    vectors = model.encode(["car flood", "", "ok", "unknown", "flood car car", "ok " * 8 + "car"])
    wanted: Any = [[0, 0, 0.6, 0.8], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 6 / 52**0.5, 4 / 52**0.5], [0, 1, 0, 0]]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)
    assert model.encode([" "]).tolist() == [[0, 0, 0, 0]]
    assert model.encode([]).shape == (0, 4)


def test_the_digits_of_a_static_encoder_are_not_part_of_its_hash(static_folder: Path, tmp_path: Path) -> None:
    """Machines that distill the same model share a text model, whose files are checked all the same."""
    facts, folder = EncoderFacts("static", 4, 8, "float16", "recipe"), shutil.copytree(static_folder, tmp_path / "m")
    first = finish_folder(folder, standing_in([]), facts)
    np.save(folder / "embeddings.npy", np.load(folder / "embeddings.npy") * np.float16(1.001))
    with pytest.raises(IsthmusError, match=r"another embeddings\.npy"):
        verified_hash(folder)
    assert finish_folder(folder, standing_in([]), facts) == first == verified_hash(folder)
    assert with_keywords(folder, tmp_path / "copy", standing_in([])) == first
    assert with_keywords(folder, tmp_path / "other", Keywords(["other"])) != first
    assert finish_folder(folder, standing_in([]), facts._replace(identity="another")) != first


def test_a_static_encoder_of_another_width_or_of_other_weights_is_another_text_model(tmp_path: Path) -> None:
    """Neither reads the other's vectors."""
    weights = tmp_path / "model.safetensors"
    found = set()
    for content, width in ((b"one", 64), (b"one", 256), (b"two", 256)):
        weights.write_bytes(content)
        found.add(identity(tmp_path, width))
    assert len(found) == 3


def test_distillation_keeps_the_first_components_and_gives_frequent_tokens_less_weight() -> None:
    """The signs are fixed: machines would choose them differently."""
    draws = np.random.default_rng(3)
    vectors = (draws.normal(size=(50, 3)) * [9, 3, 0.001] @ np.linalg.qr(draws.normal(size=(3, 3)))[0]).astype(np.float32)
    two = reduced(vectors, 2)
    np.testing.assert_allclose(two, reduced(vectors[:, :].copy(), 3)[:, :2])
    centred = vectors - vectors.mean(axis=0)
    np.testing.assert_allclose(two @ two.T, centred @ centred.T, atol=0.1)
    weights = weighted(np.ones((50, 1)))[:, 0]
    assert (np.diff(weights) > 0).all()


def test_an_encoder_of_an_unknown_kind_is_refused(static_folder: Path, tmp_path: Path) -> None:
    """Not a traceback, and not a guess."""
    folder = shutil.copytree(static_folder, tmp_path / "m")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "encoder": "quantum"}))
    with pytest.raises(IsthmusError, match="a manifest that cannot be read"):
        TextModel(folder)


def test_a_table_that_does_not_fit_its_tokenizer_is_refused(static_folder: Path, tmp_path: Path) -> None:
    """A token without a row would end the encoder at its first sentence."""
    folder = shutil.copytree(static_folder, tmp_path / "m")
    np.save(folder / "embeddings.npy", np.ones((3, 4), dtype=np.float16))
    finish_folder(folder, standing_in([]), encoder_facts(folder))
    with pytest.raises(IsthmusError, match="cannot be loaded"):
        TextModel(folder)


SAID = ("ok", "Good morning, how can I help you?", "I want to insure my new car.", "one moment please", "It was flooded " * 20)


@pytest.mark.parametrize("encoder", ["float32", "int8", "packaged"])
def test_a_vector_does_not_depend_on_what_is_remembered_or_shares_its_batch(
    float32_folder: Path, int8_folder: Path, encoder: str
) -> None:
    """Alone, in company, remembered or not: the same up to the seventh digit."""
    folder = {"float32": float32_folder, "int8": int8_folder}.get(encoder, default_folder(Settings().cache_dir))
    remembering, forgetful = TextModel(folder), TextModel(folder, cached_sentences=0)
    together = forgetful.encode(SAID)
    for sentence, vector in zip(SAID, together, strict=True):
        assert np.allclose(forgetful.encode([sentence])[0], vector, atol=1e-6)
    remembering.encode(SAID[:2])
    assert np.allclose(remembering.encode(SAID), together, atol=1e-6)
    assert np.allclose(remembering.encode(SAID[::-1])[::-1], together, atol=1e-6)


def test_a_float32_encoder_is_another_text_model_near_the_int8_one(float32_folder: Path, int8_folder: Path) -> None:
    """Its hash differs, because a ranker is trained for one of them; another keyword list keeps its precision."""
    plain, small = TextModel(float32_folder), TextModel(int8_folder)
    assert plain.hash != small.hash
    cosines = (plain.encode(SAID) * small.encode(SAID)).sum(axis=1)
    assert 0.95 < cosines.min() < 0.99999
    with_keywords(float32_folder, float32_folder.parent / "other", Keywords(["other"]))
    assert np.array_equal(TextModel(float32_folder.parent / "other").encode(SAID), plain.encode(SAID))


def test_the_sentences_used_last_are_remembered(int8_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three sentences in a memory for two, the one that was not used again is encoded again."""
    model = TextModel(int8_folder, cached_sentences=2)
    encode, encoded = model._encoder.encode, list[str]()

    def watched(sentences: Sequence[str]) -> Any:
        encoded.extend(sentences)
        return encode(sentences)

    monkeypatch.setattr(model._encoder, "encode", watched)
    for sentence in ("one", "two", "one", "three", "one", "two"):
        model.encode([sentence])
    assert encoded == ["one", "two", "three", "two"]
