"""Tokenizer of the miniature Stable Diffusion, and the prompts in the repository."""

from minicity.diffusion.tokenizer import apply_merges, build_tokenizer, build_vocabulary
from minicity.paths import PROJECT
from minicity.world.styles import STYLES
from minicity.world.wide import AIRS, LIGHTS, WIDE_STYLES

from clouds.generation.prompts import read_prompts

PROMPTS = PROJECT / "configs/prompts.txt"


def assert_words_are_tokens(tokenizer, texts):
    spelt = {token for text in texts for token in tokenizer.tokenize(text) if not token.endswith("</w>")}
    assert not spelt
    for text in texts:
        words = text.lower().replace(",", " ,").replace(".", " .").split()
        assert [token.removesuffix("</w>") for token in tokenizer.tokenize(text)] == words
        assert len(tokenizer(text)["input_ids"]) <= tokenizer.model_max_length


def test_every_word_of_a_caption_is_one_token(drawn):
    assert_words_are_tokens(build_tokenizer(), drawn.captions)


def test_every_word_of_the_prompts_is_one_token_and_none_belongs_to_a_validation_domain(drawn):
    prompts = read_prompts(PROMPTS)
    assert 90 <= len(set(prompts)) == len(prompts) <= 120
    assert_words_are_tokens(build_tokenizer(), prompts)
    whens = {when for style in WIDE_STYLES for when in style.when if when}
    others = {when for style in STYLES.values() for when in style.when} - whens
    others -= {part for when in whens for part in others if part in when}
    for prompt in prompts:
        assert not [when for when in others if when in prompt], prompt


def test_prompts_cover_all_lights_weather_and_objects():
    text = " ".join(read_prompts(PROMPTS))
    for kinds in (LIGHTS, AIRS):
        assert [words for kind in kinds.values() for words in kind.words if words not in text] == []
    things = "train bus truck car motorcycle bicycle rider people pedestrians trees buildings wall fence dirt grass"
    things = [*things.split(), "traffic light", "traffic sign", "busy", "quiet"]
    assert [thing for thing in things if thing not in text] == []


def test_a_word_that_begins_like_another_is_still_one_token():
    words = ("street", "tree", "trees", "rees", "eet", "st")
    vocabulary, merges = build_vocabulary(words)
    assert [apply_merges(word, dict.fromkeys(merges)) for word in words] == [[f"{word}</w>"] for word in words]
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert apply_merges("streets", dict.fromkeys(merges))[-1] == "s</w>"
