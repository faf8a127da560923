"""A picture that says of itself that it was generated, and nothing of whom it shows."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from trainer.records import RGB

XMP_KEY = "XML:com.adobe.xmp"
# What says "made by a trained model" in the IPTC Photo Metadata Standard 2023.1, property DigitalSourceType.
GENERATED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP = """\
<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Likeness {version}"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" Iptc4xmpExt:DigitalSourceType="{source}"/>
</rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def write_generated(file: Path, rgb_u8: RGB) -> None:
    """Write a (height, width, 3) uint8 picture as PNG, whole or not at all, marked as generated."""
    marks = PngInfo()
    marks.add_itxt(XMP_KEY, _XMP.format(version=version("likeness-trainer"), source=GENERATED))
    part = file.with_suffix(".part")
    Image.fromarray(rgb_u8).save(part, "PNG", pnginfo=marks)
    part.replace(file)
