"""Cut-outs with names and categories, and background photographs, for the alignment of virft-photo.

    python scripts/photo_assets.py FOLDER

Downloads Debian packages into FOLDER/packages with ``apt-get download`` and writes ``FOLDER/cutouts`` (PNG with alpha),
``FOLDER/backgrounds`` (JPEG) and ``FOLDER/assets.json``. The stamps of Tux Paint are GPL-2: they are used, not shipped.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from virft.scenes.assets import (
    BASE_STYLES,
    Split,
    background,
    background_files,
    class_names,
    scene_classes,
    sprite,
    styles_of,
    thing_names,
)

STAMPS = "tuxpaint-stamps-default"
WALLPAPERS = ("mate-backgrounds", "plasma-workspace-wallpapers")
"""Packages with photographs; the photographs of ``lomiri-wallpapers`` are among the backgrounds of virft."""
CUTOUT_SIDE = 256
PHOTO_SIDE = 640
MIN_SIDE = 40
"""Smallest longer side of a cut-out in pixels; smaller ones would be enlarged several times."""
CATEGORIES = {  # folder of the stamps -> categories, the narrowest first
    "animals/mammals": ("mammal", "animal"),
    "animals/marsupials": ("mammal", "animal"),
    "animals/birds": ("bird", "animal"),
    "animals/fish": ("fish", "animal"),
    "animals/insects": ("insect", "animal"),
    "animals": ("animal",),
    "plants/flowers": ("flower", "plant"),
    "plants/trees": ("tree", "plant"),
    "plants": ("plant",),
    "food/fruit": ("fruit", "food"),
    "food/nuts": ("nut", "food"),
    "food/vegetables": ("vegetable", "food"),
    "food": ("food",),
    "household/dishes": ("dish", "household item"),
    "household/tools": ("tool",),
    "household": ("household item",),
    "clothes/hats": ("hat", "garment"),
    "clothes": ("garment",),
    "hobbies/music": ("instrument",),
    "hobbies": ("household item",),
    "town/roadsigns": ("road sign",),
    "space/planets": ("planet",),
    "sports": ("sport item",),
    "vehicles": ("vehicle",),
    "medical": ("medical item",),
    "seasonal": (),
    "town": (),
}
GROUPS = {  # group of the scenes' classes -> categories
    "animal": ("animal",), "fruit": ("fruit", "food"), "snack": ("food",), "vehicle": ("vehicle",),
    "ball": ("sport item",), "instrument": ("instrument",), "garment": ("garment",), "plant": ("plant",),
}  # fmt: skip
LEFT_OUT = re.compile(
    r"cartoon|_mirror|plastic|/flags/|dreydl|/moon/|fireworks|confetti|explosion|lightning|0_sun|german_christmas|"
    r"grave|police_mirror|sedan_police|wheel|spoke|lettuce_bolted|rambutan|flower7|flower4|bunny-head|silo|"
    r"wildboar|inukshuk|naval_shell|final-roll|xanthia|1_hand|roundabout|yield|give_way|no_entry|no_uturn|dead_end|"
    r"hospital|toilets|arrow|crossroads|t-junction|railroad|poo\.png|0_|chick-in|bunny-egg",
    re.IGNORECASE,
)
NAMES = {  # end of a stamp's path -> name, where the first line of its text is a sentence
    "insects/hoverfly.png": "hoverfly", "insects/Brown_slug.png": "slug", "mammals/pig_golden2.png": "pig",
    "mammals/pig_golden.png": "pig", "mammals/rodents/capybara.png": "capybara", "rodents/rabbit-2.png": "rabbit",
    "mammals/rabbit_little.png": "rabbit", "bears/european-bear.png": "bear", "toys/edward_bear.png": "teddy bear",
    "bovines/sheep_lamb.png": "lamb", "bovines/gnu-sitting.png": "gnu", "bovines/gnu-baby.png": "gnu",
    "bovines/gnu-baby-stand.png": "gnu", "bovines/gnu-stand.png": "gnu", "bovines/mountaingoat.png": "goat",
    "bovines/indian_blackbuck.png": "blackbuck", "mammals/rhino_black.png": "rhino",
    "apes/tamarin_emperor.png": "tamarin",
    "mammals/hippopotamus.png": "hippopotamus", "birds/silver-gull.png": "gull", "birds/seagull.png": "gull",
    "birds/nandou.png": "rhea", "birds/albino_peahen.png": "peacock", "birds/peacock.png": "peacock",
    "birds/helmeted_guineafowl.png": "guinea fowl", "birds/hen.png": "hen", "birds/chicken_profile.png": "hen",
    "birds/pink_flamingo.png": "flamingo", "birds/rooster.png": "rooster", "birds/little-penguin.png": "penguin",
    "birds/magellanic_penguin.png": "penguin", "birds/heron_greatblue.png": "heron",
    "birds/heron_greatblue_flying.png": "heron", "birds/adelaide-rosella.png": "parrot",
    "birds/rainbow-lorikeet.png": "parrot", "fish/stripedfish.png": "fish", "fish/lobster.png": "lobster",
    "fish/lionfish.png": "lionfish", "fish/bluegroper.png": "groper", "fish/coraltrout.png": "trout",
    "fish/shrimp.png": "shrimp", "cats/tiger_sumatran.png": "tiger", "trees/tree336.png": "pili tree",
    "trees/holly_leaves.png": "holly", "trees/holm_oak.png": "oak", "trees/liberia-palm.png": "palm tree",
    "trees/birch.png": "birch", "plants/thyme.png": "thyme", "mushrooms/cep.png": "mushroom",
    "mushrooms/cep-1.png": "mushroom", "mushrooms/cep-2.png": "mushroom", "vegetables/mushroom.png": "mushroom",
    "plants/lavender.png": "lavender", "plants/eggplant.png": "eggplant", "flowers/appooppanthady.png": "milkweed",
    "flowers/adeenia.png": "desert rose", "flowers/flower9.png": "gazania", "flowers/flower10.png": "hibiscus",
    "flowers/chemparathi.png": "hibiscus", "flowers/anthoorium.png": "anthurium", "flowers/anemone_red.png": "anemone",
    "flowers/bolsom.png": "balsam", "flowers/red-gazania.png": "gazania", "flowers/whitestar-petunia.png": "petunia",
    "flowers/pigface.png": "pigface", "flowers/yellow-flower.png": "flower", "fruit/apple_green.png": "apple",
    "fruit/apple_granny_smith.png": "apple", "fruit/apple_red.png": "apple", "fruit/apple_fuji.png": "apple",
    "fruit/apple_sierra_beauty.png": "apple", "fruit/orange_seville.png": "orange", "fruit/sliced_orange.png": "orange",
    "fruit/Cherry_Stella.png": "cherry", "fruit/pear.png": "pear", "fruit/grapes.png": "grapes",
    "fruit/avocado.png": "avocado", "fruit/cherimoya.png": "cherimoya", "fruit/lemon.png": "lemon",
    "fruit/mandarine.png": "mandarin", "fruit/kiwi.png": "kiwi", "fruit/sliced_lime.png": "lime",
    "nuts/walnut_shelled.png": "walnut", "vegetables/tomato.png": "tomato", "vegetables/garlics.png": "garlic",
    "vegetables/garlic.png": "garlic", "vegetables/lettuce.png": "lettuce", "vegetables/redlettuce.png": "lettuce",
    "vegetables/potato.png": "potato", "vegetables/pattypan_squash.png": "squash", "vegetables/pepper.png": "pepper",
    "vegetables/yellowpepper.png": "pepper", "vegetables/broccoli.png": "broccoli",
    "vegetables/pumpkin_small.png": "pumpkin", "vegetables/corn.png": "corn", "food/pizza.png": "pizza",
    "spices/ginger.png": "ginger", "dishes/pitcher_small.png": "pitcher", "dishes/glass.png": "glass",
    "household/garbagecan.png": "garbage can", "household/toilet.png": "toilet",
    "household/cylinder.png": "gas cylinder",
    "household/home_compost_bin.png": "compost bin", "arttools/pen_dryerase.png": "marker",
    "arttools/highlighter.png": "highlighter", "arttools/scissors_small_closed.png": "scissors",
    "arttools/scissors_small_open.png": "scissors", "tools/paintbrush_large.png": "paintbrush",
    "tools/plyers.png": "pliers", "tools/mallet_metal.png": "mallet", "tools/wrench_adjustable.png": "wrench",
    "tools/wrench_plumbers.png": "wrench", "tools/spade.png": "spade", "household/kettle.png": "kettle",
    "household/wheelie_bin.png": "wheelie bin", "clothes/clothespin_new.png": "clothespin",
    "clothes/clothespin_old.png": "clothespin", "clothes/t_pants.png": "pants", "clothes/t_shirt.png": "shirt",
    "clothes/t_poloshirt.png": "shirt", "clothes/t_tshirt.png": "shirt", "hats/green_fedora.png": "fedora",
    "hats/blue_fedora.png": "fedora", "town/usps_mailbox.png": "mailbox", "roadsigns/stop.png": "stop sign",
    "roadsigns/stoplight_03_green.png": "traffic light", "roadsigns/stoplight_02_yellow.png": "traffic light",
    "roadsigns/stoplight_01_red.png": "traffic light", "roadsigns/school_sign.png": "school sign",
    "roadsigns/xing_school.png": "school sign", "roadsigns/xing_ped.png": "crossing sign",
    "town/uk_post_box.png": "mailbox", "military/fireman240a.png": "fireman", "vehicles/infantry-stryker.png": "tank",
    "vehicles/ww2_german_gun.png": "cannon", "vehicles/f22_raptor.png": "jet", "vehicles/bradley.png": "tank",
    "string/guitar_electric.png": "guitar", "string/guitar_electric_bass.png": "guitar", "string/guitar2.png": "guitar",
    "string/guitar_classical.png": "guitar", "percussion/drumkit.png": "drum kit",
    "percussion/cymbal_crash.png": "cymbal", "percussion/drum_tomtom_floor.png": "drum", "hobbies/binoculars.png":
    "binoculars", "space/voyager2.png": "space probe", "space/spacewalk.png": "astronaut",
    "space/apollo_lander.png": "lunar lander", "planets/6_saturn.png": "Saturn", "planets/9_pluto.png": "Pluto",
    "planets/3_earth.png": "Earth", "planets/8_neptune.png": "Neptune", "planets/2_venus.png": "Venus",
    "planets/7_uranus.png": "Uranus", "planets/1_mercury.png": "Mercury", "planets/4_mars.png": "Mars",
    "planets/5_jupiter.png": "Jupiter", "medical/stethoscope.png": "stethoscope",
    "medical/bandage_adhesive.png": "bandage", "medical/mercurythermometer.png": "thermometer",
    "hanukkah/menorah.png": "menorah", "hanukkah/holiday_candle.png": "candle", "seasonal/candle.png": "candle",
    "easter/wrapped_chocolate_easter_egg_2.png": "easter egg", "easter/wrapped_chocolate_easter_egg.png": "easter egg",
    "easter/bunny.png": "rabbit", "easter/chick-hatched.png": "chick", "christmas/hard_candy.png": "candy",
    "christmas/xmaswreath.png": "wreath", "christmas/Roast_turkey.png": "roast turkey",
    "christmas/stocking.png": "stocking", "christmas/xmas_tp_bulb.png": "ornament", "christmas/Santa.png": "Santa",
    "christmas/lamp.png": "Christmas light", "christmas/Candy_cane_photo_2.png": "candy cane",
    "christmas/Candy_cane_photo_1.png": "candy cane", "christmas/Christmas_pudding.png": "pudding",
    "christmas/Mince_Pie.png": "mince pie", "halloween/blackcat.png": "cat", "halloween/jackolantern_mean.png":
    "pumpkin", "sports/football.png": "football", "sports/australian_rules_football.png": "football",
    "sports/rugby_goal_posts.png": "goal posts", "naturalforces/fire.png": "fire", "construction/dumper.png": "dumper",
    "ship/walnutBoat.png": "sailboat", "ship/chineseJunk.png": "sailing ship", "auto/beetle.png": "car",
    "auto/sportscar2.png": "car", "auto/sedan.png": "car", "masstransit/green_korean_bus.png": "bus",
    "cycle/pink_tricycle.png": "tricycle", "people/fireman240a.png": "fireman", "people/fireman200b.png": "fireman",
    "toys/grannysmith.png": "doll",
}  # fmt: skip
HELD_OUT = (
    "zebra", "koala", "otter", "ferret", "goat", "tiger", "owl", "pelican", "rooster", "flamingo", "iguana",
    "clownfish", "bee", "mantis", "pineapple", "pear", "strawberry", "tomato", "carrot", "iris", "rose",
    "violin", "teapot", "wrench", "sombrero", "fire truck", "bus", "soccer ball",
)  # fmt: skip
"""Names of no training scene: test sets ask for them, and for their categories."""


def fetch(package: str, folder: Path) -> Path:
    """Return the folder with the files of a Debian package, downloaded if it is missing."""
    place = folder / "packages" / package
    if not place.is_dir():
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(("apt-get", "download", package), cwd=place.parent, check=True, stdout=subprocess.DEVNULL)
        (archive,) = place.parent.glob(f"{package}_*.deb")
        subprocess.run(("dpkg-deb", "-x", archive, place.with_suffix(".part")), check=True)
        place.with_suffix(".part").rename(place)
    return place


def stamp_name(path: Path, root: Path) -> str | None:
    """Return the name of a stamp: of ``NAMES``, or the noun phrase in its text; None if that is a sentence."""
    relative = str(path.relative_to(root))
    for end, name in NAMES.items():
        if relative.endswith(end):
            return name
    text = path.with_suffix(".txt")
    line = text.read_text(encoding="utf-8").splitlines()[0] if text.exists() else ""
    found = re.sub(r"^(an?|the|some|a pair of|a bunch of)\s+", "", line.strip().rstrip(".!"), flags=re.IGNORECASE)
    found = re.sub(r"^(pair of|bunch of)\s+", "", re.sub(r"\s*\(.*\)", "", found))
    return found if re.fullmatch(r"[A-Za-z]+( [A-Za-z]+){0,1}", found) else None


def stamp_categories(path: Path, root: Path) -> tuple[str, ...] | None:
    """Return the categories of the stamp's folder, the narrowest first; None if its folder is not used."""
    relative = path.relative_to(root)
    for parent in relative.parents:
        if str(parent) in CATEGORIES:
            return CATEGORIES[str(parent)]
    return None


def cropped(image: Image.Image) -> Image.Image | None:
    """Return the cut-out cropped to alpha > 16, its longer side at most CUTOUT_SIDE; None if it is no cut-out."""
    image = image.convert("RGBA")
    alpha = np.asarray(image)[..., 3]
    solid = alpha > 16
    if not solid.any() or solid.mean() > 0.98:
        return None
    ys, xs = np.nonzero(solid)
    image = image.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    if max(image.size) < MIN_SIDE:
        return None
    image.thumbnail((CUTOUT_SIDE, CUTOUT_SIDE), Image.Resampling.LANCZOS)
    return image


def add_stamps(folder: Path) -> list[dict[str, object]]:
    """Write the photographic stamps as cut-outs; return their rows."""
    root = fetch(STAMPS, folder) / "usr/share/tuxpaint/stamps"
    rows = []
    for path in sorted(root.rglob("*.png")):
        categories, name = stamp_categories(path, root), stamp_name(path, root)
        if categories is None or name is None or LEFT_OUT.search(str(path.relative_to(root))):
            continue
        image = cropped(Image.open(path))
        if image is None:
            continue
        file = f"stamp_{str(path.relative_to(root)).replace('/', '_')}"
        image.save(folder / "cutouts" / file)
        name = name if name[:1].isupper() and name in NAMES.values() else name.lower()
        rows.append(
            {"file": file, "name": name, "categories": [c for c in categories if c != name], "source": "stamps"}
        )
    return rows


def add_sprites(folder: Path) -> list[dict[str, object]]:
    """Write the sprites of base classes and things of the built-in scenes as cut-outs; return their rows."""
    rows = []
    for name in (*class_names("base"), *thing_names()):
        group = scene_classes()[name].group if name in scene_classes() else ""
        text = name.replace("_", " ").replace("-", " ")
        for style in styles_of(name, BASE_STYLES):
            file = f"sprite_{style}_{name.replace(' ', '_')}.png"
            sprite(name, style).save(folder / "cutouts" / file)
            rows.append({"file": file, "name": text, "categories": list(GROUPS.get(group, ())), "source": "sprites"})
    return rows


def add_backgrounds(folder: Path) -> list[dict[str, object]]:
    """Write photographs without a main object as backgrounds; return their rows, about a sixth of them for tests."""
    rows = []
    for split in Split:
        for file in background_files(split):
            background(file).save(folder / "backgrounds" / file, quality=92)
            rows.append({"file": file, "split": str(split), "source": "virft"})
    for package in WALLPAPERS:
        place = fetch(package, folder)
        largest: dict[Path, Path] = {}  # a wallpaper has several sizes in its folder
        for path in sorted(place.rglob("*")):
            if path.suffix.lower() not in (".jpg", ".jpeg", ".png", ".webp") or path.stat().st_size < 60_000:
                continue
            key = path.parent if "contents/images" in str(path) else path
            if key not in largest or path.stat().st_size > largest[key].stat().st_size:
                largest[key] = path
        for path in sorted(largest.values()):
            try:
                image = Image.open(path).convert("RGB")
            except OSError:
                continue
            if min(image.size) < 300 or "/doc/" in str(path):
                continue
            image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
            file = f"{package}_{str(path.relative_to(place)).replace('/', '_')}"
            file = f"{Path(file).stem[-90:]}.jpg"
            image.save(folder / "backgrounds" / file, quality=90)
            split = "test" if zlib.crc32(file.encode()) % 6 == 0 else "train"
            rows.append({"file": file, "split": split, "source": package})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for name in ("cutouts", "backgrounds"):
        shutil.rmtree(args.folder / name, ignore_errors=True)
        (args.folder / name).mkdir(parents=True)
    cutouts = [*add_stamps(args.folder), *add_sprites(args.folder)]
    known = Counter(str(row["name"]) for row in cutouts)
    if missing := [name for name in HELD_OUT if name not in known]:
        raise SystemExit(f"no cut-out of {', '.join(missing)}")
    for row in cutouts:
        row["split"] = "heldout" if row["name"] in HELD_OUT else "base"
    backgrounds = add_backgrounds(args.folder)
    (args.folder / "assets.json").write_text(
        json.dumps({"cutouts": cutouts, "backgrounds": backgrounds}, indent=1, ensure_ascii=False) + "\n"
    )
    for source in ("stamps", "sprites"):
        chosen = [row for row in cutouts if row["source"] == source]
        print(f"{source}: {len(chosen)} cut-outs, {len({row['name'] for row in chosen})} names")
    print(f"backgrounds: {Counter(str(row['split']) for row in backgrounds)}")


if __name__ == "__main__":
    main()
