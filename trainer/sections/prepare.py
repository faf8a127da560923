"""The section `prepare`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.sections.section import Choice, Fraction, Section


class PrepareSection(Section):
    """From photos to framed, captioned samples."""

    trigger: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{1,15}$")] = "ohwx"
    """The word that calls the person in a prompt; lower-case letters and digits, 2 to 16 of them."""
    subject_kind: Literal["person", "style", "brand"] = "person"
    """What is learned. A style or brand has no face: none is looked for, and no likeness is told."""
    class_word: Literal["person", "woman", "man", "style", "artwork", "logo", "product"] = "person"
    """What the subject is called beside the trigger, and alone in the leak test; it goes with `subject_kind`."""
    framing: Literal["centre", "whole"] = "centre"
    """Samples of a style or brand: the largest square in the middle of a picture, or all of it on white."""
    min_face_px: Annotated[int, Field(ge=16, le=1024)] = 48
    """Smallest face width in pixels; below: `face-too-small`."""
    on_small: Choice = "reject"
    """What to do with a photo that is `face-too-small`: reject, warn or keep."""
    min_sharpness: Annotated[float, Field(ge=0.0)] = 12.0
    """Smallest variance of the Laplacian on the aligned 112 px gray face; below: `blurred`."""
    on_blurred: Choice = "reject"
    """What to do with a photo that is `blurred`."""
    max_shadow: Fraction = 0.4
    """Largest share of the face that is black (gray level 12 or less); above: `too-dark`."""
    on_dark: Choice = "warn"
    """What to do with a photo that is `too-dark`."""
    max_highlight: Fraction = 0.4
    """Largest share of the face that is burnt out (gray level 250 or more); above: `too-bright`."""
    on_bright: Choice = "warn"
    """What to do with a photo that is `too-bright`."""
    max_turn_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 60.0
    """Largest turn of the head, left, right, up or down, in rough degrees; above: `turned-away`."""
    on_turned: Choice = "warn"
    """What to do with a photo that is `turned-away`."""
    min_jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 30
    """Smallest JPEG quality, 1 to 100, by the file's quantization table; below: `compressed`."""
    on_compressed: Choice = "warn"
    """What to do with a photo that is `compressed`."""
    max_cut: Fraction = 0.25
    """Largest share of the face, hairline to chin, that may lie outside the photo; above: `cut-off`."""
    on_cut: Choice = "reject"
    """What to do with a photo that is `cut-off`."""
    max_occluded: Fraction = 0.55
    """Largest share of the eyes, or of nose and mouth, that has not the skin's colour; above: `occluded`."""
    on_occluded: Choice = "warn"
    """What to do with a photo that is `occluded`: dark glasses, a mask."""
    min_texture: Annotated[float, Field(ge=0.0)] = 0.06
    """Smallest fine detail of cheeks and forehead against that of the eyes; below: `filtered`."""
    max_chroma: Annotated[float, Field(ge=0.0, le=200.0)] = 45.0
    """Largest distance of the face's colour from gray, in CIELAB; above: `filtered`."""
    max_tint_deg: Annotated[float, Field(ge=0.0, le=180.0)] = 25.0
    """Largest distance of the face's hue from that of skin in white light, in degrees of CIELAB; above: `filtered`."""
    min_levels: Fraction = 0.45
    """Smallest share of the face's gray levels that is in use (exponential of their entropy); below: `filtered`."""
    on_filtered: Choice = "warn"
    """What to do with a photo that is `filtered`."""
    min_detection: Fraction = 0.7
    """Detector confidence from which something counts as a face."""
    second_face: Fraction = 0.6
    """Another face at least this wide, as a share of the person's, is kept out of the sample; else `several-faces`."""
    on_look_alikes: Choice = "reject"
    """What to do where several such faces look like the person: `look-alikes`. Kept: the one that does most."""
    framings: list[Literal["face", "head-and-shoulders", "half-body"]] = Field(
        default=["face"], min_length=1, max_length=3
    )
    """Framings of each photo to learn from. `face` is the base's own; wider ones are made where the photo has them.

    About 23, 50 and 87 cm wide.
    """
    max_upscale: Annotated[float, Field(ge=1.0, le=16.0)] | None = None
    """Largest enlargement of a photo in a sample; a framing that needs more is left out. None: any."""
    max_aspect: Annotated[float, Field(ge=1.0, le=4.0)] = 1.0
    """Most times that a sample's one side may be as long as the other. 1: squares. More: buckets of other shapes.

    They have at most as many pixels as the square of `base.size_px` (arXiv 2307.01952, section 2.3). A face's square
    goes on into the photo around it; pictures of a style or brand take the bucket nearest to their own shape.
    """
    same_person: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3
    """Gate similarity to the consensus below which a photo is always `other-person`.

    The threshold itself lies about 0.33 below what is usual for the person's photos, but not below this.
    """
    burst: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.97
    """Gate similarity from which two photos count as one burst and share a role."""
    keep_burst: Literal["all", "best"] = "all"
    """Of near-duplicates and bursts: all are used, or the best by the measured quality; the others are `burst`."""
    select_share: Fraction = 0.2
    """Share of the photos sealed for choosing the checkpoint; at least 2."""
    report_share: Fraction = 0.2
    """Share of the photos sealed for the reported score; at least 2."""
    min_photos: Annotated[int, Field(ge=3)] = 3
    """Fewer usable photos than this end with exit 3. Under 8 none is sealed, and the verdict is `unmeasurable`."""
    max_pixels: Annotated[int, Field(ge=1_000_000)] = 120_000_000
    """Largest accepted picture, in pixels, checked before decoding: `too-large`."""
    captioner: Literal["attributes", "sidecar", "blip", "florence2", "qwen-vl"] = "attributes"
    """Who describes the samples: measured words; your photo.txt beside photo.jpg; a model in `captioner_path`."""
    captioner_path: str | None = None
    """Folder of the captioner's transformers files, or its hub name (then with `captioner_revision`)."""
    captioner_revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    """Hub commit of the captioner, 40 hexadecimal digits."""
    identity_words: Literal["refuse", "cut", "warn"] = "refuse"
    """Words in your .txt files that say who it is (hair colour, age, the name): end with exit 3, leave out, or warn.

    A model's answers always go without them.
    """
