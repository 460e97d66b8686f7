"""Denoisers of diffusers: pipelines and their components, by hub name, local folder or live object.

``base.py`` is what they have in common: a picture is encoded by the pipeline's VAE, noised as its scheduler noises
during training, and shown to the denoiser at one or many timesteps. ``families.py`` holds the table of what is
supported; a family is one line there and a class, in one file, with the methods ``base.py`` lists. ``watching.py`` sees
queries, keys and values, ``recording.py`` puts them in order; ``loading.py`` fetches.
"""
