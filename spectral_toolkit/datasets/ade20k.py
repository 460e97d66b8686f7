"""ADE20K as it was prepared for the scene parsing challenge: 150 categories, 0 for all else."""

from __future__ import annotations

from pathlib import Path

from .labelled import LabelledFile, LabelledImages
from .reading import Numbers, existing, needed, numbered, pictures

_NAMES = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair,
seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers,
counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck,
tower, chandelier, awning, streetlight, booth, television, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade
name, microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic
light, tray, ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
"""The first name of every category in the challenge's objectInfo150.txt, in order: wall is 1 in the maps, flag 150."""
CATEGORIES = tuple(" ".join(_NAMES.split()).split(", "))
VOID = 0


def open_ade20k(root: Path, split: str) -> LabelledImages:
    """Read the images of a split and the map of each."""
    home = existing(root, f"images/{split}", what="the images")
    maps = existing(root, f"annotations/{split}", what="the label maps")
    pairs = [(one, maps / f"{one.stem}.png") for one in pictures(home)]
    needed(((one.name, labels) for one, labels in pairs), "label map")
    ids = f"1 to {len(CATEGORIES)}, and {VOID} for no label"
    files = [LabelledFile(one, Numbers(labels, numbered(CATEGORIES, 1), (VOID,), ids)) for one, labels in pairs]
    return LabelledImages(files, CATEGORIES, title="ADE20K (150 categories)")
