"""The progress bar of a training without epochs."""

from lightning.pytorch.callbacks import RichProgressBar


class TrainingBar(RichProgressBar):
    """RichProgressBar without the count of epochs, which a planned stream does not have (it would read ``0/-2``)."""

    # Private: the bar has no public setting for its description.
    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"
