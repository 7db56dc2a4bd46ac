"""A run that segments scans, and goes on where an earlier one ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import monai.data
from ignite.engine import Events
from monai.engines import SupervisedEvaluator
from torch.utils.data import DataLoader

from rep3d.data.cases import ONE_CHANNEL, case_names, image_files
from rep3d.data.notes import Window, channel_windows
from rep3d.data.regions import Regions
from rep3d.inference import segment_each
from rep3d.locks import FolderLocks
from rep3d.predictions.keys import settings_key
from rep3d.predictions.results import OUTPUT_FORMATS, RECORD, Results

logger = logging.getLogger(__name__)


def predict_each(
    evaluator: SupervisedEvaluator,
    dataloader: DataLoader,
    output_dir: str | os.PathLike,
    *,
    label_names: Sequence[str],
    bundle_root: str | os.PathLike,
    output_format: str = OUTPUT_FORMATS[0],
    preview: bool = False,
    window: Window = None,
    channel_names: Sequence[str] = ONE_CHANNEL,
    regions: Regions | None = None,
) -> None:
    """Segment every scan that no earlier run with the same weights and settings has; report those that fail, go on.

    Beside the label maps there are then: of NIfTI a JSON file with the labels' names and colours, of a DICOM series a
    DICOM Segmentation, with `preview` a PNG, and one table of all volumes, `volumes.csv`. All carry the name of the
    label map.

    Args:
        evaluator: as of `rep3d.inference.segment_each`; its postprocessing saves label maps in `output_dir`.
        dataloader: likewise.
        output_dir: receives the files.
        label_names: by id, the background first.
        bundle_root: the bundle's folder, after which DICOM Segmentations name their model.
        output_format: of the label maps, one of OUTPUT_FORMATS.
        preview: draw a picture of each scan, of its first channel, too.
        window: intensities that are black and white there, see `rep3d.data.notes.channel_windows`; None: percentiles
            of each slice.
        channel_names: of a scan.
        regions: ids by name, of a network of regions: what the table has the volumes of, see `rep3d.data.regions`.

    Raises:
        ValueError: an unknown format; another run writes to the folder; newer code has written to it, or its record is
            damaged; it holds label maps of other scans with these names, such in another format that were changed, or
            somebody else's table or record.
        RuntimeError: after all scans, when some have failed, such as for a DICOM Segmentation, a picture or a JSON file
            of somebody else in the place of theirs. Names each with its reason.
    """
    if output_format not in OUTPUT_FORMATS:
        raise ValueError(f"output_format is {output_format!r}, expected one of {', '.join(OUTPUT_FORMATS)}")
    locks = FolderLocks([output_dir], "prediction")
    try:
        shown, *_ = channel_windows(window, len(channel_names))
        model = Path(bundle_root).resolve().name
        results = Results(Path(output_dir), label_names, regions, model, preview, shown, output_format)
        dataset: monai.data.Dataset = dataloader.dataset  # type: ignore[assignment]
        named = [{**item, "case": case} for item, case in zip(dataset.data, case_names(dataset.data), strict=True)]
        results.start(settings_key(evaluator.network), {item["case"]: image_files(item) for item in named})
        pending = [item for item in named if not results.is_done(item["case"])]
        if len(pending) < len(named):
            told = f"{len(named) - len(pending)} of {len(named)} scan(s) were segmented by an earlier run"
            logger.info("%s with the same weights and settings, see %s", told, results.folder / RECORD)
            results.write()
        try:
            if pending:
                items = [{**item, **results.problem(item["case"])} for item in pending]
                todo = DataLoader(monai.data.Dataset(items, dataset.transform), num_workers=dataloader.num_workers)
                with evaluator.add_event_handler(Events.ITERATION_COMPLETED, results.add):
                    segment_each(evaluator, todo, output_dir)
        finally:
            results.tell_left_out()
    finally:
        locks.release()
