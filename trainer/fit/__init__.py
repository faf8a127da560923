"""The LoRA fine-tune: cached latents, a PEFT adapter, checkpoints, and a resume that changes nothing."""
