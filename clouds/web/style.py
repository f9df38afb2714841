"""Colors and fonts of the page: those of the system, with a contrast of 4.5 or more (WCAG AA), light and dark."""

import gradio as gr

_FONTS = ("ui-sans-serif", "system-ui", "sans-serif")
_FIXED = ("ui-monospace", "Consolas", "monospace")

CSS = """
.dark { --color-accent: var(--primary-400); }
.gradio-container :focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
.clouds-title { margin: 0 0 0.5em; font-weight: 600; }
.clouds-swatch { display: inline-block; width: 1em; height: 1em; margin-right: 0.5em; vertical-align: -0.125em;
    border: 1px solid var(--body-text-color); border-radius: 2px; }
.clouds-legend { display: flex; flex-wrap: wrap; gap: 0.25em 1.25em; margin: 0; padding: 0; list-style: none; }
.clouds-legend li { margin: 0; }
.clouds-area { width: 100%; border-collapse: collapse; }
.clouds-area caption { padding: 0.25em 0; text-align: left; font-weight: 600; }
.prose .clouds-area tr > * { padding: 0.25em 0.5em; border: solid var(--border-color-primary); border-width: 0 0 1px;
    text-align: left; font-weight: 400; }
.prose .clouds-area :is(thead, tfoot) tr > * { font-weight: 600; }
.prose .clouds-area tr > :last-child { text-align: right; font-variant-numeric: tabular-nums; }
/* The buttons that cut a video load a program from another host. */
#video :is(button[aria-label^="Trim"], button[aria-label^="Reset"]) { display: none; }
"""


def theme() -> gr.themes.Base:
    """Return the theme, which loads no font."""
    return gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=_FONTS, font_mono=_FIXED).set(
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_800",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_700",
        block_title_text_color_dark="*neutral_200",
        block_label_text_color="*neutral_700",
        block_label_text_color_dark="*neutral_200",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_300",
        color_accent="*primary_700",
    )
