"""Words of any language: Unicode's rules, one spelling per word, and what no rule without a dictionary finds."""

import json
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stream.core import limits
from stream.errors import IsthmusError
from stream.services.text_models import default_folder, keywords_from_transcripts
from stream.settings import Settings
from stream.text import words as text_words
from stream.text.keywords import RULE, Keywords, candidates, keywords_of, remarks, standing_in
from stream.text.model import TextModel, read_keywords, with_keywords
from stream.text.stop_words import language_of, stop_words
from stream.text.words import words

RECORDED = Path(__file__).parents[1] / "compatibility" / "text_model_0.1.0"
USERS = 24


def said_by_all(*texts: str) -> dict[str, list[str]]:
    """The same calls of enough users for a list."""
    return {f"user-{number}": list(texts) for number in range(USERS)}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Kündigung, GRÖSSE und Straße", ("kündigung", "grösse", "strasse")),
        ("Страхование автомобиля", ("страхование", "автомобиля")),
        ("Ακύρωση ΣΥΜΒΟΛΑΊΟΥ", ("ακύρωση", "συμβολαίου")),
        ("résiliation d’assurance", ("résiliation", "assurance")),
        ("hủy bảo hiểm", ("hủy", "bảo", "hiểm")),
        ("إلغاء التأمين", ("إلغاء", "التأمين")),
        ("ביטול ביטוח", ("ביטול", "ביטוח")),
        ("हिन्दी में बीमा", ("हिन्दी", "में", "बीमा")),
        ("보험을 해지", ("보험을", "해지")),
        ("İPTAL sigorta", ("iptal", "sigorta")),
        ("自動車の解約", ("自動", "動車", "解約")),
        ("キャンセル", ("キャンセル",)),
        ("ｷｬﾝｾﾙ", ("キャンセル",)),
        ("犬", ("犬",)),
        ("取消保险", ("取消", "消保", "保险")),
    ],
)
def test_words_are_found_in_every_script_that_tells_them_apart(text: str, found: tuple[str, ...]) -> None:
    """Whole, with their accents and vowel signs; Chinese characters in overlapping pairs."""
    assert tuple(word for word in words(text) if word in found) == found
    assert Keywords(found).find([text]) == found


@pytest.mark.parametrize(
    "spelling",
    [
        "don't Kündigung",
        "don’t kündigung",
        "DONʼT KÜNDIGUNG",
        "don´t " + unicodedata.normalize("NFD", "Kündigung"),
        "don＇t Ｋündigung",
        "don't kün\u00addi\u00adgung",
        "don’t k\u200dündigung",
    ],
)
def test_a_word_is_found_in_whatever_form_it_is_written(spelling: str) -> None:
    """Capitals, apostrophes, composed or decomposed accents, full width, soft hyphens and joiners make no difference."""
    assert words(spelling) == ["don't", "kündigung"]


@pytest.mark.parametrize("hyphen", "-\u2010\u2011\u2013\uff0d")
def test_a_hyphen_separates_words_however_it_is_typed(hyphen: str) -> None:
    """A compound is found written with a hyphen or a space."""
    assert Keywords(["kfz versicherung"]).find([f"Kfz{hyphen}Versicherung"]) == ("kfz versicherung",)


@pytest.mark.parametrize("text", ["l'assurance", "l’assurance", "L'ASSURANCE", "qu'assurance", "dell'assurance"])
def test_an_elided_article_is_no_part_of_a_word(text: str) -> None:
    """ "l'assurance" holds "assurance", and English contractions stay whole."""
    assert words(text)[-1] == "assurance"
    assert words("don't it's I'd") == ["don't", "it's", "i'd"]


@pytest.mark.parametrize("clause", ["home。insurance", "home، insurance", "home。 insurance", "home? insurance", "home… insurance"])
def test_a_pair_does_not_reach_over_the_end_of_a_clause(clause: str) -> None:
    """Whatever the script's punctuation; nor over a number, which is no keyword itself."""
    assert Keywords(["home insurance"]).find([clause]) == ()
    assert Keywords(["home insurance"]).find(["home 7 insurance", "home ७ insurance"]) == ()


LATIN_GREEK_CYRILLIC = st.text(st.characters(max_codepoint=0x52F) | st.sampled_from("aáжλ'.:·-_ 1,’‐…\u1e9e\u1ff7"), max_size=24)


@given(LATIN_GREEK_CYRILLIC)
@example("a:b 'tis 3.5 foo_bar z.B. a··b 5'a a'5")
def test_the_quick_rule_for_latin_greek_and_cyrillic_is_unicodes(text: str) -> None:
    """The quick pattern and the full one give the same candidates."""
    quick = words(text)
    folded = unicodedata.normalize("NFKC", text_words.normalize(text).casefold().replace("i\u0307", "i"))
    full = text_words._FULL.findall(text_words._ELISION.sub("' ", folded))
    nothing: frozenset[str] = frozenset()
    assert candidates(quick, nothing) == candidates(full, nothing)


ANY_SCRIPT = st.text(
    st.characters()
    | st.sampled_from("  \n\t'’´.:·\"-_1५क़क़ािं्\u200dदஅ\u0bbeกאבג\u05b7،ع\u064b한ᄒ犬か゛ﾞﾊ\u0301aéİﬁ\u2e3c\u200b\xad🇩🇪।"),
    max_size=24,
)


@given(st.lists(ANY_SCRIPT, min_size=1, max_size=4))
@example(["\u0301", "का \u093e", "a \u0301b"])
@example(["ab'cd \u2e3c l'été", "l'été l'été"])
def test_words_that_are_looked_up_are_those_of_the_full_rules(texts: list[str]) -> None:
    """Whatever came before: chunks between spaces are kept, new ones are read together."""
    text_words._KNOWN.clear()
    for text in (*texts, " ".join(texts), *texts):
        beyond = f"{text} ก"
        folded = unicodedata.normalize("NFKC", text_words.normalize(beyond).casefold().replace("i\u0307", "i"))
        full = text_words._pairs_for_han(text_words._FULL.findall(text_words._ELISION.sub("' ", folded)))
        assert words(beyond) == full


def test_what_is_kept_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number and their length, so that no call fills a process."""
    monkeypatch.setattr(text_words, "_MOST_KNOWN", 10)
    for number in range(100):
        assert words(f"नमस्ते{number} {'क' * 100}")[-1] == "क" * 100
    assert len(text_words._KNOWN) <= 12
    assert max(map(len, text_words._KNOWN)) < 100


@given(st.text(max_size=20))
def test_folding_is_stable(text: str) -> None:
    """The words of a text's words are the same words: a list's keyword is found in the keyword itself."""
    listed = candidates(words(text), frozenset())
    assert set(listed) <= set(Keywords(listed).find(listed))


def test_german_nouns_are_keywords_and_names_are_not() -> None:
    """Both are capitalised; a noun follows a determiner, at least now and then."""
    calls = said_by_all(
        "Ich möchte gerne die Kündigung einreichen, sagt Matilda.", "Mein Name ist Frau Müller und ich wohne in Bern.", "ja bitte"
    )
    for number in range(0, USERS, 2):
        calls[f"user-{number}"].append("Was kostet mich das, wenn Kündigung und Umzug zusammen kommen? Ich brauche einen Umzug.")
    listed = keywords_of(calls, min_users=10).listed
    assert {"kündigung", "kündigung einreichen", "umzug", "wohne"} <= set(listed)
    assert not {"matilda", "müller", "bern"} & {word for keyword in listed for word in keyword.split()}
    assert not {"ich", "die", "und", "das"} & set(listed)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        ("Hello, my name is Zoë, and I want the car insurance for my dog.", {"zoë"}),
        ("Здравствуйте, меня зовут Наталья и я хочу отменить страховку для моей машины.", {"наталья"}),
        ("Bonjour, je suis madame Lefèvre et je voudrais résilier mon assurance pour la voiture.", {"lefèvre"}),
        ("Καλημέρα, με λένε Ελένη και θέλω να ακυρώσω την ασφάλεια για το αυτοκίνητο.", {"ελένη"}),
    ],
)
def test_names_are_left_out_in_every_script_with_capitals(call: str, names: set[str]) -> None:
    """A word of enough users that is written with a capital within a sentence."""
    listed = set(keywords_of(said_by_all(call)).listed)
    assert len(listed) >= 3
    assert not names & {word for keyword in listed for word in keyword.split()}


def test_a_name_that_no_capital_tells_is_left_out_on_request_and_the_user_is_told(tmp_path: Path) -> None:
    """Japanese has no capitals: the command says so, and a file of names excludes them."""
    calls, names = tmp_path / "calls.jsonl", tmp_path / "names.txt"
    lines = [
        {
            "user_id": user,
            "conversation_id": "c",
            "started_at": 1_700_000_000_000,
            "sentences": [{"speaker": "customer", "text": text}],
        }
        for user in said_by_all()
        for text in ("田中です。保険を解約します。", "ประกันภัย")
    ]
    calls.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    names.write_text("田中 Matilda\n", encoding="utf-8-sig")
    told: list[str] = []
    assert keywords_from_transcripts(calls, 20, names, told.append).listed == ("保険", "解約")
    assert "2 keywords are in a script without capital letters" in told[0]
    assert f"{USERS} users' calls hold Thai" in told[1]
    assert "田中" in keywords_from_transcripts(calls, 20, None, told.append).listed
    with pytest.raises(IsthmusError, match=r"nowhere\.txt"):
        keywords_from_transcripts(calls, 20, tmp_path / "nowhere.txt", told.append)


def test_text_without_spaces_between_words_gets_no_keywords() -> None:
    """Thai, Lao, Khmer and Burmese need a dictionary: no letters are passed off as words."""
    calls = said_by_all("ประกันภัยรถยนต์", "ປະກັນໄພ", "ធានារ៉ាប់រង", "အာမခံ", "ねこがすき")
    assert keywords_of(calls).listed == ()
    assert len(remarks(calls, Keywords([]))) == 1


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Ich hätte da mal eine Frage", "de"),
        ("je voudrais savoir si vous avez une assurance", "fr"),
        ("quiero cancelar el seguro de mi coche porque ya no lo uso", "es"),
        ("vorrei disdire la mia assicurazione perché non la uso", "it"),
        ("ik wil graag mijn verzekering opzeggen voor de auto", "nl"),
        ("я хочу отменить свою страховку, но не знаю как", "ru"),
        ("I would like to cancel my insurance", "en"),
        ("Car insurance", "en"),
        ("flood", "en"),
    ],
)
def test_the_language_is_the_one_whose_stop_words_are_said(text: str, language: str) -> None:
    """A single word in common proves nothing: "car" is French for "because"."""
    assert language_of(words(text)) == language
    assert not stop_words(language) & set(candidates(words(text), stop_words(language)))


def test_each_user_has_the_stop_words_of_their_own_language() -> None:
    """Calls in two languages: "car" is a keyword though it is a French stop word, and "die" none though English has the verb."""
    calls = said_by_all("I would like to insure my car and the dog")
    german = said_by_all("ich möchte für die Wohnung und den Hund eine Police")
    listed = keywords_of({**calls, **{f"de-{user}": texts for user, texts in german.items()}}).listed
    assert {"car", "dog", "police"} <= set(listed)
    assert not {"die", "und", "the"} & set(listed)


def test_the_first_list_speaks_the_catalogues_language() -> None:
    """Words of catalogue and tags, whatever their language."""
    listed = standing_in(["Kfz-Versicherung für das Auto", "車両保険", "страховка_машины"]).listed
    assert {"kfz", "versicherung", "kfz versicherung", "車両", "保険", "страховка машины"} <= set(listed)


def test_a_word_too_long_for_an_encoded_call_is_no_keyword() -> None:
    """The step would refuse every call that holds it. Neither new lists nor those of older folders give it out."""
    long = "donaudampfschifffahrtsgesellschaft" * 2
    said = [f"{long} hafen {long[: limits.TAG_CHARACTERS - 4]} hafen"]
    assert max(map(len, keywords_of(said_by_all(*said)).listed)) <= limits.TAG_CHARACTERS
    assert Keywords([long, "hafen"]).find(said) == Keywords([long, "hafen"], rule=1).find(said) == ("hafen",)


def test_a_text_model_made_before_keeps_its_words_and_its_hash() -> None:
    """The recorded keywords of version 0.1.0, whose words were ASCII's: a ranker was trained on them."""
    keywords = read_keywords(RECORDED)
    assert keywords.rule == 1
    recorded = json.loads((RECORDED / "found.json").read_text(encoding="utf-8"))
    assert len(recorded) > 5
    for call in recorded:
        assert list(keywords.find(call["said"])) == call["keywords"]


def test_the_rule_for_words_is_part_of_the_hash(tmp_path: Path) -> None:
    """The same encoder and list by the first rule and by today's are two text models; a rule of a later version is refused."""
    packaged = default_folder(Settings().cache_dir)
    hashes = {with_keywords(packaged, tmp_path / str(rule), Keywords(["ndigung"], rule=rule)) for rule in (1, RULE)}
    assert len(hashes) == 2
    assert TextModel(tmp_path / "1").keywords.find(["Kündigung"]) == ("ndigung",)
    assert TextModel(tmp_path / str(RULE)).keywords.find(["Kündigung"]) == ()
    manifest = tmp_path / "1" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "keyword_rule": 99}))
    with pytest.raises(IsthmusError, match="rule 99"):
        TextModel(tmp_path / "1")


def test_a_list_is_read_in_any_locale(tmp_path: Path) -> None:
    """A text model is a folder that moves between machines: its files are UTF-8 whatever the system's encoding."""
    with_keywords(default_folder(Settings().cache_dir), tmp_path, Keywords(["kündigung"]))
    code = "import sys, pathlib, stream.text.model as m; print(ascii(m.read_keywords(pathlib.Path(sys.argv[1])).listed))"
    command = [sys.executable, "-X", "utf8=0", "-c", code, str(tmp_path)]
    done = subprocess.run(command, env={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == r"('k\xfcndigung',)"
