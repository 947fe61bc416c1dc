"""Every word the model reads: templates, tasks, batches."""
