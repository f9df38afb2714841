"""The page, built of components of Gradio. Only `clouds.web.server` imports it, because Gradio is optional."""

import html
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import gradio as gr

from clouds.api import Segmentation
from clouds.engine.checkpointing.origin import has_text_head
from clouds.errors import UserError
from clouds.utils.atomic import make_folder
from clouds.web.panels import area_table, class_names, legend
from clouds.web.prediction import IMAGE_PIXELS, VIDEO_PIXELS, Predictions

logger = logging.getLogger(__name__)

_KEPT = 3600  # seconds that uploads and results are kept
_QUEUE = "prediction"  # images and videos wait in one queue

Upload = dict[str, Any]
"""An uploaded file, as Gradio describes it: ``path`` and ``orig_name``."""


class Page:
    """Components of the page and what their events do.

    Args:
        predictions: predicts the uploads.
        source: name of the network, for the title.
        examples: paths of images to try.
        folder: folder of the results, which is removed when the server ends.
    """

    def __init__(self, predictions: Predictions, source: str, examples: Sequence[Path], folder: Path) -> None:
        self.predictions = predictions
        self.source = source
        self.examples = examples
        self.folder = folder

    def build(self, queue: int) -> gr.Blocks:
        """Return the page.

        Args:
            queue: largest number of predictions that wait; more are refused with a message.
        """
        with gr.Blocks(title="CLOUDS", analytics_enabled=False, delete_cache=(_KEPT, _KEPT)) as page:
            gr.Markdown(self._introduction())
            with gr.Row():
                self._add_classes()
            with gr.Tab("Image"):
                self._add_image_tab()
            with gr.Tab("Video"):
                self._add_video_tab()
        page.queue(max_size=queue, api_open=False, default_concurrency_limit=1)
        return page

    def _introduction(self) -> str:
        model = self.predictions.model
        return (
            "# CLOUDS: semantic segmentation\n"
            f"Network `{self.source}` on {model.cfg.MODEL.DEVICE}, {len(model.classes)} classes. Files stay on the "
            f"machine that runs this page; they have at most {self.predictions.limits.megabytes} MB."
        )

    def _add_classes(self) -> None:
        model = self.predictions.model
        self.classes: list[gr.Textbox] = []  # its text is an input of the events, if the network has a text head
        if has_text_head(model.network):
            box = gr.Textbox(
                "\n".join(model.classes),
                label="Classes",
                info="One class a line, synonyms after commas. The network predicts any classes.",
                lines=5,
                max_lines=8,
                elem_id="classes",
            )
            self.classes.append(box)
        with gr.Column():
            self.legend = gr.HTML(legend(model.classes, model.colors), container=True, padding=True, elem_id="legend")

    def _add_image_tab(self) -> None:
        result = gr.State(time_to_live=_KEPT)
        with gr.Row(equal_height=False):
            with gr.Column():
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "webcam", "clipboard"],
                    buttons=["fullscreen"],
                    elem_id="image",
                )
                gr.Markdown(f"Images of more than {IMAGE_PIXELS / 1e6:.0f} megapixels are reduced.")
                button = gr.Button("Predict", variant="primary", elem_id="predict")
                if self.examples:
                    gr.Examples([[str(path)] for path in self.examples], image, label="Examples", examples_per_page=8)
            with gr.Column():
                overlay = _shown_image("Overlay", "overlay")
                opacity = _opacity("opacity")
                area = gr.HTML(elem_id="area")
                download = gr.DownloadButton("Download the label map (PNG)", interactive=False, elem_id="download")
        with gr.Row():
            with gr.Column():
                confidence = _shown_image("Confidence", "confidence")
                gr.Markdown("Confidence is the highest share of a class: dark blue is 0, yellow is 1.")
            with gr.Column():
                entropy = _shown_image("Entropy", "entropy")
                gr.Markdown("Entropy is 0 (dark blue) if a single class has all, and 1 (yellow) if all have the same.")
        button.click(
            self.predict_image,
            [image, opacity, *self.classes],
            [result, overlay, confidence, entropy, area, self.legend, download],
            preprocess=False,  # a file that is no image is reported by `read_image`
            concurrency_id=_QUEUE,
            api_visibility="private",
        )
        opacity.change(
            self.blend,
            [result, opacity],
            overlay,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )

    def _add_video_tab(self) -> None:
        limits = self.predictions.limits
        with gr.Row(equal_height=False):
            with gr.Column():
                video = gr.Video(label="Video", sources=["upload"], include_audio=False, buttons=[], elem_id="video")
                gr.Markdown(
                    f"The first {limits.seconds} seconds are predicted, {limits.frames} frames of them at most, "
                    f"each reduced to {VIDEO_PIXELS / 1e6:.0f} megapixel."
                )
                opacity = _opacity("video-opacity", "Opacity of the colors in the next overlay")
                button = gr.Button("Predict", variant="primary", elem_id="predict-video")
            with gr.Column():
                overlay = gr.Video(
                    label="Overlay", interactive=False, buttons=["download"], autoplay=True, loop=True,
                    elem_id="video-overlay",
                )  # fmt: skip
                summary = gr.Markdown(elem_id="video-summary")

        bar = gr.Progress()

        def predict(
            upload: Upload | None, opacity: float, text: str = "", report: gr.Progress = bar
        ) -> tuple[str, str, str]:
            return self.predict_video(upload, opacity, text, report)

        button.click(
            predict,
            [video, opacity, *self.classes],
            [overlay, summary, self.legend],
            preprocess=False,
            concurrency_id=_QUEUE,
            api_visibility="private",
        )

    def predict_image(self, upload: Upload | None, opacity: float, text: str = "") -> tuple[Any, ...]:
        """Predict an uploaded image.

        Returns:
            The values of the components that show the result.
        """
        with _sentences():
            path, name = _file(upload, "image")
            shown = self.predictions.image(path, name, self._classes(text))
            result = shown.result
            target = self._new_file("labels.png")
            result.save(target)
            logger.info(f"{name}: {result}")
        return (
            result,
            result.overlay(opacity),
            shown.confidence,
            shown.entropy,
            area_table(result.area, result.colors),
            legend(result.classes, result.colors),
            gr.DownloadButton(value=str(target), interactive=True),
        )

    def blend(self, result: Segmentation | None, opacity: float) -> Any:
        """Return the overlay of the last prediction with another opacity."""
        return None if result is None else result.overlay(opacity)

    def predict_video(
        self, upload: Upload | None, opacity: float, text: str, report: Callable[[float], None]
    ) -> tuple[str, str, str]:
        """Predict an uploaded video.

        Returns:
            The path of the overlay, a summary, and the legend.
        """
        with _sentences():
            path, name = _file(upload, "video")
            target = self._new_file("overlay.mp4")
            result, frames = self.predictions.video(path, name, self._classes(text), opacity, target, report)
        logger.info(f"{name}: {frames} frames")
        return str(target), f"{frames} frames are predicted.", legend(result.classes, result.colors)

    def _classes(self, text: str) -> list[str] | None:
        """Return the classes of a text; None for those of the network, which have colors of their own."""
        names = class_names(text)
        return None if names == list(self.predictions.model.classes) else names

    def _new_file(self, name: str) -> Path:
        """Return the path of a new file in a folder of its own."""
        folder = self.folder / uuid4().hex
        make_folder(folder)
        return folder / name


def _shown_image(label: str, name: str) -> gr.Image:
    return gr.Image(
        label=label, format="png", interactive=False, buttons=["download", "fullscreen"], elem_id=name, alt_text=label
    )


def _opacity(name: str, label: str = "Opacity of the colors") -> gr.Slider:
    return gr.Slider(0, 1, 0.5, step=0.05, label=label, buttons=[], elem_id=name)


def _file(upload: Upload | None, kind: str) -> tuple[str, str]:
    """Return the path of an uploaded file and the name that it had.

    Raises:
        UserError: there is none.
    """
    if not upload or not upload.get("path"):
        raise UserError(f"There is no {kind} yet: upload one first.")
    return upload["path"], upload.get("orig_name") or Path(upload["path"]).name


@contextmanager
def _sentences() -> Iterator[None]:
    """Show an error that is meant for the user as a message in the page, and as one line in the log."""
    try:
        yield
    except UserError as error:
        logger.warning(str(error))
        # The page would take the text for HTML.
        raise gr.Error(html.escape(str(error)), duration=None, print_exception=False) from error
