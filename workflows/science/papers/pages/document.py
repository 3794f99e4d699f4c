"""Documents: PDFs, and pictures of pages, opened page by page."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from workflows.errors import WorkflowError
from workflows.science.papers.pages.page import Page
from wsi.cleanup import clean_up, cleaning_up
from wsi.files.identity import FileWatch

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

DPI = 144.0
"""Default resolution: print of 8 pt has letters of about 8 px, which the families read."""
LEAST_DPI = 12.0
MOST_PIXELS = 64_000_000
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
_PASSWORD, _FORMAT = 4, 3  # FPDF_ERR_PASSWORD, FPDF_ERR_FORMAT


class DocumentError(WorkflowError, ValueError):
    """A document cannot be opened or read as asked."""


class PasswordError(DocumentError):
    """A document is encrypted, and no password or a wrong one was given."""


class PageError(DocumentError):
    """One page of a document is damaged; the others may be fine."""


@dataclass(frozen=True, slots=True)
class PictureRule:
    """Size of the pictures of pages.

    Attributes
    ----------
    dpi : float
        px per inch, unless a page would have more than `max_pixels`.
    factor : int
        Side of a visual token in px; pictures are filled with white up to whole ones, so that no one resizes them.
    max_pixels : int
        Most px of a picture; a larger page gets fewer dpi.
    """

    dpi: float = DPI
    factor: int = 32
    max_pixels: int = 16_777_216

    def scale_of(self, width_pt: float, height_pt: float) -> float:
        """px per pt of a page of this size.

        Raises
        ------
        PageError
            The page would have to be shown with less than 12 dpi.
        """
        scale = self.dpi / 72
        limit = min(self.max_pixels, MOST_PIXELS)
        while self.size_of(width_pt, height_pt, scale)[0] * self.size_of(width_pt, height_pt, scale)[1] > limit:
            scale *= 0.98
            if scale * 72 < LEAST_DPI:
                raise PageError(
                    f"a page of {width_pt:.0f}x{height_pt:.0f} pt has more than {limit:,} px at {LEAST_DPI:.0f} dpi; "
                    "the model cannot read it"
                )
        return scale

    def size_of(self, width_pt: float, height_pt: float, scale: float) -> tuple[int, int]:
        """Width and height in px of a page's picture, filled up to whole tokens."""
        width, height = (max(1, int(np.ceil(side * scale - 1e-6))) for side in (width_pt, height_pt))
        return -(-width // self.factor) * self.factor, -(-height // self.factor) * self.factor


class Document:
    """An opened document; a context manager. One thread uses it at a time, as PDFium wants.

    Attributes
    ----------
    path : Path
    pages : int
        Number of pages in the file.
    encrypted : bool
    fingerprint : str
        Hash of the file's content.
    watch : FileWatch
        Whether the file is still the one that was opened.
    """

    def __init__(self, path: Path, pdf: PdfDocument, picture: NDArray[np.uint8] | None, encrypted: bool) -> None:
        self.path = path
        self.encrypted = encrypted
        self.watch = FileWatch.of(path)
        self.fingerprint = self.watch.fingerprint
        self._pdf, self._picture = pdf, picture
        self.pages = 1 if pdf is None else len(pdf)

    @property
    def kind(self) -> str:
        """'pdf' or 'picture'."""
        return "picture" if self._pdf is None else "pdf"

    def size(self, number: int) -> tuple[float, float]:
        """Width and height of a page as shown, in pt; a px of a picture counts as a pt.

        Raises
        ------
        PageError
            The page is damaged, or there is none of this number.
        """
        if self._picture is not None:
            return float(self._picture.shape[1]), float(self._picture.shape[0])
        with self._page(number) as page:
            width, height = page.get_size()
        if width <= 0 or height <= 0:
            raise PageError(f"{self.path}, page {number} has no extent")
        return width, height

    def signs(self, number: int) -> int:
        """How many signs a page's text layer holds, seen or not.

        Raises
        ------
        PageError
            The page is damaged, or there is none of this number.
        """
        if self._pdf is None:
            return 0
        from pypdfium2 import PdfiumError

        try:
            with self._page(number) as page:
                textpage = page.get_textpage()
                with cleaning_up(textpage.close):
                    return int(textpage.count_chars())
        except PdfiumError as error:
            raise PageError(f"{self.path}, page {number} cannot be read: {error}") from error

    def page(self, number: int, rule: PictureRule | None = None) -> Page:
        """A page with its picture, words, tables and figures.

        Parameters
        ----------
        number : int
            From 1.
        rule : PictureRule, optional

        Raises
        ------
        PageError
            The page is damaged, or there is none of this number.
        """
        rule = rule or PictureRule()
        width, height = self.size(number)
        if self._picture is not None:
            return Page(number, width, height, self._picture, 1.0)
        scale = rule.scale_of(width, height)
        from pypdfium2 import PdfiumError

        from workflows.science.papers.pages.regions import read_regions
        from workflows.science.papers.pages.text_layer import read_print

        try:
            with self._page(number) as page:
                bitmap = page.render(scale=scale, rev_byteorder=True)
                shown = bitmap.to_numpy()[..., :3]
                columns, rows = rule.size_of(width, height, scale)
                picture = np.full((rows, columns, 3), 255, np.uint8)
                picture[: shown.shape[0], : shown.shape[1]] = shown[:rows, :columns]
                text_layer, printed = read_print(page, picture, scale)
                tables, figures = read_regions(page, printed)
        except PdfiumError as error:
            raise PageError(f"{self.path}, page {number} cannot be read: {error}") from error
        return Page(number, width, height, picture, scale, text_layer, printed, tables, figures)

    @contextmanager
    def _page(self, number: int) -> Iterator[Any]:
        from pypdfium2 import PdfiumError

        if not 1 <= number <= self.pages:
            raise PageError(f"{self.path} has pages 1 to {self.pages}, not {number}")
        try:
            page = self._pdf[number - 1]
        except PdfiumError as error:
            raise PageError(f"{self.path}, page {number} cannot be read: {error}") from error
        with cleaning_up(page.close):
            yield page

    def close(self) -> None:
        """Close the file."""
        if self._pdf is not None:
            self._pdf.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        clean_up(error, self.close)


def open_document(path: Path | str, *, password: str | None = None) -> Document:
    """Open a PDF, or a picture of a page.

    Parameters
    ----------
    path : Path or str
    password : str, optional
        Of an encrypted PDF. It is stored nowhere.

    Raises
    ------
    PasswordError
        It is encrypted, and the password is missing or wrong.
    DocumentError
        It is no document, is damaged, or has no pages; or pypdfium2 is not installed.
    FileNotFoundError
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    if path.suffix.lower() in _PICTURES:
        return Document(path, None, _read_picture(path), encrypted=False)
    try:
        import pypdfium2
    except ImportError as error:
        raise DocumentError("Reading PDFs needs pypdfium2. Install it: pip install 'napari-qwenvl[science]'") from error
    if path.stat().st_size == 0:
        raise DocumentError(f"{path} is empty: 0 bytes. Fetch it again.")
    try:
        pdf = pypdfium2.PdfDocument(path, password=password)
        encrypted = pypdfium2.raw.FPDF_GetSecurityHandlerRevision(pdf) >= 0
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PASSWORD:
            said = "the password given is wrong" if password else "a password is needed"
            raise PasswordError(
                f"{path} is encrypted: {said}. Put it into a file of its own and give --password-file."
            ) from error
        raise DocumentError(
            f"{path} is no PDF, or is damaged beyond reading ({error}). Open it in a viewer and print it to a "
            "new PDF, or fetch it again."
        ) from error
    if len(pdf) == 0:
        pdf.close()
        raise DocumentError(f"{path} has no pages. Fetch it again.")
    return Document(path, pdf, None, encrypted)


def _read_picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise DocumentError(
                    f"{path} has {image.width}x{image.height} px, more than {MOST_PIXELS:,}. Make it smaller."
                )
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DocumentError(f"{path} cannot be read as a picture: {error}") from error


_RANGE = re.compile(r"\s*(\d+)?\s*(-)?\s*(\d+)?\s*")


def page_range(words: str | None, pages: int) -> tuple[int, ...]:
    """The pages that '3', '2-5', '7-' or '1-3,8' name, ascending and each once; None names all.

    Raises
    ------
    DocumentError
        The words are no range, or name a page that is not there.
    """
    if words is None:
        return tuple(range(1, pages + 1))
    found: set[int] = set()
    for part in words.split(","):
        match = _RANGE.fullmatch(part)
        if match is None or not (match[1] or match[3]):
            raise DocumentError(f"pages {words!r}: write them as '3', '2-5', '7-' or '1-3,8'")
        first = int(match[1] or 1)
        last = int(match[3] or (pages if match[2] else first))
        if match[3] and not match[2]:
            raise DocumentError(f"pages {words!r}: write them as '3', '2-5', '7-' or '1-3,8'")
        if not 1 <= first <= last <= pages:
            raise DocumentError(f"pages {words!r}: the document has pages 1 to {pages}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))
