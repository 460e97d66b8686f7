"""Which vision families of transformers work: ``python docs/make_survey_page.py RESULTS.json --date DAY --versions V``.

A file of results holds what a survey of tiny models with random weights found for each family: its ``outcome`` (works,
partly, refused, crash or not built), ``why``, and the same for each of its ``classes``. A later file replaces the
families of those before it. ``--resized`` names one of families whose tiny model in the survey refuses its own forward
pass, tried again with sizes that fit; ``--earlier`` one of an earlier run, for families that the others lack. What is
shown is kept in docs/survey.json, from which the table of docs/supported.md is made; without arguments that table is
made again. A test compares them.
"""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from marked import filled

DOCS = Path(__file__).resolve().parent
KEPT = DOCS / "survey.json"
PAGE = DOCS / "supported.md"
_QUERIES = "attention of its decoder, over object queries"
_PROMPTS = "attention over prompts, in its mask decoder and their encoder"
_MEMORY = f"{_PROMPTS}, and that of its memory, which an image alone does not use"
APART = {
    **dict.fromkeys(
        (
            "conditional_detr", "dab_detr", "deformable_detr", "detr", "grounding_dino", "lw_detr", "mask2former",
            "maskformer", "mm_grounding_dino", "omdet_turbo", "oneformer", "pp_doclayout_v2", "pp_doclayout_v3",
            "pp_doclayout_v4", "rf_detr", "rt_detr", "rt_detr_v2", "d_fine", "deimv2", "table_transformer",
        ),
        _QUERIES,
    ),
    **dict.fromkeys(
        ("sam", "sam2", "sam3", "sam3_lite_text", "sam3_tracker", "sam_hq"),
        _PROMPTS,
    ),
    **dict.fromkeys(("sam2_video", "sam3_tracker_video", "sam3_video"), _MEMORY),
    "groupvit": "assignment of patches to groups, whose queries are the groups",
    "kosmos2": "attention of 64 latent queries to the patches",
    "pp_formulanet": "attention of its decoder, over the tokens of a formula",
    "slanext": "attention of its decoder, over the cells of a table",
    "vjepa2": "its predictor, which its classifier does not run",
}  # fmt: skip
"""What is not captured of families that are captured otherwise: it has no patches of its own, so there is nothing to
group, or it is not run."""
NOTHING = {
    "mobilevitv2": "its attention is one vector of context, without pairs of patches",
    "perceiver": "its queries are latent vectors, not patches",
    "pp_ocrv5_mobile_rec": "these classes have no attention, or are shown maps of features",
    "pp_ocrv5_server_rec": "these classes have no attention, or are shown maps of features",
    "pp_ocrv6_small_rec": "these classes have no attention, or are shown maps of features",
    "swiftformer": "its attention is additive: one vector of context, without pairs of patches",
}
"""Families in which no attention is between patches."""
UNFIT = {
    **dict.fromkeys(
        ("d_fine", "deimv2", "pp_doclayout_v2", "pp_doclayout_v3", "pp_doclayout_v4", "rt_detr", "rt_detr_v2"),
        "its decoder is made for 256 channels, and its encoder gives 32",
    ),
    **dict.fromkeys(
        ("grounding_dino", "mask2former", "mm_grounding_dino", "oneformer"),
        "the 32 channels of its backbone are no multiple of 3 heads",
    ),
    **dict.fromkeys(
        ("edgetam_video", "sam2", "sam2_video"), "the first stage of its backbone is made for 96 channels, and gets 32"
    ),
    "edgetam": "its neck is made for 384 channels, and its backbone gives 1024",
    "layoutlmv3": "the embeddings of its places have 768 channels, and those of its patches 32",
    "lfm3_vl": "of its two layers none has attention",
    "mllama": "it wants the output of layer 3, and has two layers",
    "neomme": "its heads of 8 channels cannot be rotated along two axes",
}  # fmt: skip
"""Families whose tiny model in the survey cannot run, which says nothing of the toolkit."""
REMARKS = {
    "embedding_gemma2": "Its configuration has no vision part by default.",
    "gemma4": "Its configuration has no vision part by default; its vision part alone works.",
    "efficientloftr": "It takes pairs of images, to match them.",
    "neomme": "Captured, and a test compares it; the survey's comparison fails, as what attention gives is changed "
    "before it is projected.",
    "video_llava": "Its tower for images; that for clips with `tower=`.",
}
"""What is said of a family instead of the survey's own reason."""
VERDICTS = {
    "works": "every self-attention over patches is captured, in every class and from a saved folder",
    "works, apart from": "the same, apart from attention that has no patches of its own, or that is not run",
    "works, resized": "the same, with other sizes: the tiny model of the survey is refused by its own forward pass",
    "in part": "some of it, or some classes",
    "nothing to group": "no attention is between patches",
    "refused": "no class is captured",
    "not tried": "the survey has no tiny model, or none that can run, or its time ended",
}
_WORK = ("works", "works, apart from", "works, resized")


def condensed(results: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a survey."""
    return {
        family: {
            "outcome": found["outcome"],
            "classes": len(found["classes"]),
            "working": sum(one["outcome"] == "works" for one in found["classes"].values()),
            "only_left_out": all(
                one["outcome"] in ("works", "not built") or one.get("only_left_out", False)
                for one in found["classes"].values()
            )
            and (found.get("folder") or {}).get("outcome") != "refused",
            "why": _short(found["why"]),
        }
        for family, found in sorted(results.items())
    }


def _short(why: str) -> str:
    """The first reason, without the advice at its end."""
    first = re.split(r"; (?=\w+ (?:partly|refused|crash):)|\. If you know how", why)[0]
    first = re.sub(r"^\w+ (?:partly|refused|crash): ", "", first)
    return first if len(first) <= 180 else first[:177] + "..."


def verdict(family: str, found: dict[str, Any]) -> str:
    """One of `VERDICTS`."""
    if found["outcome"] == "works":
        return "works"
    if family in APART and found["outcome"] == "partly" and found["only_left_out"]:
        return "works, apart from"
    if family in NOTHING and found["outcome"] == "refused":
        return "nothing to group"
    again = found.get("resized")
    if again is not None and verdict(family, again) in _WORK:
        return "works, resized"
    if "partly" in (found["outcome"], (again or found)["outcome"]):
        return "in part"
    return "refused" if found["outcome"] == "refused" and family not in UNFIT else "not tried"


def reason(family: str, found: dict[str, Any], of: str) -> str:
    """What a family's verdict rests on."""
    if of == "works, apart from":
        return f"Left out: {APART[family]}."
    if of == "nothing to group":
        return f"{NOTHING[family].capitalize()}."
    if of == "works, resized":
        left = f" Left out: {APART[family]}." if verdict(family, found["resized"]) == "works, apart from" else ""
        return f"With the survey's sizes, {UNFIT[family]}.{left}" if family in UNFIT else _code(found["why"])
    if of == "not tried" and family in UNFIT:
        return f"Its tiny model cannot run: {UNFIT[family]}."
    return REMARKS.get(family) or _code((found.get("resized") or found)["why"])


def _code(text: str) -> str:
    return f"`` {text.replace('|', '/').replace('`', '')} ``"


def tables(kept: dict[str, Any]) -> str:
    """The table of docs/supported.md, with its sums."""
    families: dict[str, Any] = kept["families"]
    told = {name: verdict(name, found) for name, found in families.items()}
    n_earlier = sum(found.get("earlier", False) for found in families.values())
    said = (
        f"Tried on {kept['date']} with {kept['versions']}: {len(families)} families, each with all of its classes that "
        "take images, as tiny models with random weights. A family works if every self-attention over its patches is "
        "captured, the softmax recomputed from the capture is the module's own, and its outputs stay what they were."
        + (f" {n_earlier} of them were tried by an earlier version of the toolkit only." if n_earlier else "")
    )
    lines = [
        *textwrap.wrap(said, 118),
        "",
        "| verdict | families | what it means |",
        "|---|---|---|",
    ]
    for one, meaning in VERDICTS.items():
        if n := sum(each == one for each in told.values()):
            lines.append(f"| {one} | {n} | {meaning} |")
    lines += ["", "| family | verdict | classes that work | what is not, and why |", "|---|---|---|---|"]
    for name, found in families.items():
        shown = found["resized"] if told[name] == "works, resized" else found
        why = "" if told[name] == "works" else reason(name, found, told[name])
        when = " (earlier)" if found.get("earlier") else ""
        lines.append(f"| `{name}` | {told[name]}{when} | {shown['working']} of {shown['classes']} | {why} |")
    return "\n".join(lines)


def page(text: str) -> str:
    """docs/supported.md with its table made again."""
    return filled(text, {"survey": tables(json.loads(KEPT.read_text(encoding="utf-8")))})


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", nargs="*", type=Path)
    parser.add_argument("--resized", type=Path, action="append", default=[])
    parser.add_argument("--earlier", type=Path, action="append", default=[])
    parser.add_argument("--date")
    parser.add_argument("--versions")
    arguments = parser.parse_args()
    if arguments.results:
        families: dict[str, Any] = {}
        for path in arguments.results:
            families |= condensed(json.loads(path.read_text(encoding="utf-8")))
        for path in arguments.earlier:
            earlier = condensed(json.loads(path.read_text(encoding="utf-8")))
            families |= {name: {**one, "earlier": True} for name, one in earlier.items() if name not in families}
        for path in arguments.resized:
            for name, found in condensed(json.loads(path.read_text(encoding="utf-8"))).items():
                families[name]["resized"] = found
        kept = {"date": arguments.date, "versions": arguments.versions, "families": dict(sorted(families.items()))}
        KEPT.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
