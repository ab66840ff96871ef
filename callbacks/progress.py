"""The progress bar of a training that is one run of steps."""

from lightning.pytorch.callbacks import RichProgressBar


class TrainingBar(RichProgressBar):
    """Lightning's bar without its count of epochs, which a planned stream does not have (it would say ``0/-2``)."""

    def _get_train_description(self, current_epoch: int) -> str:
        return f"{'Training':{len(self.validation_description)}}"
