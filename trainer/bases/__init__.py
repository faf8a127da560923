"""Which diffusion model is tuned: one file a family, all behind `base.Base`."""
