"""S3Rec's two phases in one fit: pretraining on attributes, then fine-tuning on the next item.

RecBole runs them as two commands, and its second one reloads a checkpoint in a way torch >= 2.6 refuses.
"""

import torch
from recbole.trainer import S3RecTrainer


class PretrainingTrainer(S3RecTrainer):
    """Pretrains, then fine-tunes the same model with RecBole's own loops."""

    def fit(self, train_data, valid_data=None, verbose=True, saved=True, show_progress=False, callback_fn=None):
        """Run both phases; returns what RecBole's fit returns for the second."""
        self.pretrain(train_data, verbose, show_progress)
        self.model.train_stage, self.model.loss_fct = "finetune", torch.nn.CrossEntropyLoss()
        self.optimizer = self._build_optimizer()
        return super().fit(train_data, valid_data, verbose, saved, show_progress, callback_fn)
