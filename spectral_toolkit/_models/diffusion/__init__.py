"""Denoisers of diffusers: pipelines and their components, by hub name, local folder or live object.

``base.py`` holds what they have in common: an image is encoded by the pipeline's VAE, noised as its scheduler does
during training, and shown to the denoiser at one or many timesteps. ``families.py`` holds the table of supported
families; a family is one line there and a class, in one file, with the methods that ``base.py`` lists. ``watching.py``
observes queries, keys and values, ``recording.py`` puts them in order, and ``loading.py`` fetches models.
"""
