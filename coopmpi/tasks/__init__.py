"""What Grad answers: problems made of a model, data, and their partition over the workers."""
