"""COCO-Stuff: the maps of countable objects and stuff (stuffthingmaps), with 171 categories or the 27 above them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .labelled import LabelledFile, LabelledImages
from .reading import Numbers, existing, needed, pictures

TABLE = """
electronic-things: 72 tv, 73 laptop, 74 mouse, 75 remote, 76 keyboard, 77 cell phone
appliance-things: 78 microwave, 79 oven, 80 toaster, 81 sink, 82 refrigerator
food-things: 52 banana, 53 apple, 54 sandwich, 55 orange, 56 broccoli, 57 carrot, 58 hot dog, 59 pizza, 60 donut,
    61 cake
furniture-things: 62 chair, 63 couch, 64 potted plant, 65 bed, 67 dining table, 70 toilet
indoor-things: 84 book, 85 clock, 86 vase, 87 scissors, 88 teddy bear, 89 hair drier, 90 toothbrush
kitchen-things: 44 bottle, 46 wine glass, 47 cup, 48 fork, 49 knife, 50 spoon, 51 bowl
accessory-things: 27 backpack, 28 umbrella, 31 handbag, 32 tie, 33 suitcase
animal-things: 16 bird, 17 cat, 18 dog, 19 horse, 20 sheep, 21 cow, 22 elephant, 23 bear, 24 zebra, 25 giraffe
outdoor-things: 10 traffic light, 11 fire hydrant, 13 stop sign, 14 parking meter, 15 bench
person-things: 1 person
sports-things: 34 frisbee, 35 skis, 36 snowboard, 37 sports ball, 38 kite, 39 baseball bat, 40 baseball glove,
    41 skateboard, 42 surfboard, 43 tennis racket
vehicle-things: 2 bicycle, 3 car, 4 motorcycle, 5 airplane, 6 bus, 7 train, 8 truck, 9 boat
ceiling-stuff: 102 ceiling-other, 103 ceiling-tile
floor-stuff: 101 carpet, 114 floor-marble, 115 floor-other, 116 floor-stone, 117 floor-tile, 118 floor-wood
food-stuff: 121 food-other, 122 fruit, 153 salad, 170 vegetable
furniture-stuff: 98 cabinet, 107 counter, 108 cupboard, 110 desk-stuff, 112 door-stuff, 123 furniture-other,
    130 light, 133 mirror-stuff, 156 shelf, 161 stairs, 165 table
raw-material-stuff: 100 cardboard, 132 metal, 139 paper, 143 plastic
textile-stuff: 92 banner, 93 blanket, 104 cloth, 105 clothes, 109 curtain, 131 mat, 137 napkin, 141 pillow, 152 rug,
    167 textile-other, 168 towel
wall-stuff: 171 wall-brick, 172 wall-concrete, 173 wall-other, 174 wall-panel, 175 wall-stone, 176 wall-tile,
    177 wall-wood
window-stuff: 180 window-blind, 181 window-other
building-stuff: 95 bridge, 96 building-other, 128 house, 151 roof, 158 skyscraper, 166 tent
ground-stuff: 111 dirt, 125 gravel, 126 ground-other, 136 mud, 140 pavement, 144 platform, 145 playingfield,
    147 railroad, 149 road, 154 sand, 159 snow
plant-stuff: 94 branch, 97 bush, 119 flower, 124 grass, 129 leaves, 134 moss, 142 plant-other, 163 straw, 169 tree
sky-stuff: 106 clouds, 157 sky-other
solid-stuff: 127 hill, 135 mountain, 150 rock, 160 solid-other, 162 stone, 182 wood
structural-stuff: 99 cage, 113 fence, 138 net, 146 railing, 164 structural-other
water-stuff: 120 fog, 148 river, 155 sea, 178 water-other, 179 waterdrops
"""
"""The 27 coarse categories, in the order of the methods that are compared on them, each with its fine ones by the ids 1
to 182 of the data set's labels.txt. Eleven ids are never annotated: 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91. The
maps hold these ids less one, and 255 for no label (Caesar, Uijlings & Ferrari, CVPR 2018)."""
VOID = 255


def _rows() -> dict[str, dict[int, str]]:
    """The fine categories of every coarse one, by id."""
    rows: dict[str, dict[int, str]] = {}
    for line in TABLE.replace("\n    ", " ").strip().splitlines():
        coarse, fine = line.split(": ")
        pairs = [entry.split(" ", 1) for entry in fine.split(", ")]
        rows[coarse] = {int(number): name for number, name in pairs}
    return rows


_ROWS = _rows()
_FINE = dict(sorted((number, name) for row in _ROWS.values() for number, name in row.items()))
FINE, COARSE = tuple(_FINE.values()), tuple(_ROWS)
FINE_PLACE = {number - 1: place for place, number in enumerate(_FINE)}
"""The place among the 171 of every number in the maps."""
COARSE_PLACE = {number - 1: place for place, row in enumerate(_ROWS.values()) for number in row}
"""The place among the 27 of every number in the maps."""


def _open(root: Path, split: str, *, coarse: bool) -> LabelledImages:
    home = existing(root, f"images/{split}", split, what="the images")
    maps = existing(root, f"annotations/{split}", f"stuffthingmaps/{split}", what="the maps (stuffthingmaps)")
    found = pictures(home)
    pairs = [(one, maps / f"{one.stem}.png") for one in found]
    needed(((one.name, labels) for one, labels in pairs), "label map")
    place, names = (COARSE_PLACE, COARSE) if coarse else (FINE_PLACE, FINE)
    ids = f"those of 171 categories between 0 and 181, and {VOID} for no label"
    files = [LabelledFile(one, Numbers(labels, place, (VOID,), ids)) for one, labels in pairs]
    return LabelledImages(files, names, title=f"COCO-Stuff ({len(names)} categories)")


open_fine = partial(_open, coarse=False)
open_coarse = partial(_open, coarse=True)
