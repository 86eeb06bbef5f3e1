"""The font of text on images."""

from PIL import ImageFont


def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that Pillow ships, at a size in pixels."""
    return ImageFont.load_default(size=size)  # type: ignore[return-value]


def font_for_image(height: int, width: int) -> ImageFont.FreeTypeFont:
    """A font that is readable on an image of this size: 1/40 of the shorter side, at least 11 pixels."""
    return load_font(max(11, min(height, width) // 40))
