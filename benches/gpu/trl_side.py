#!/usr/bin/env python3
"""TRL's side on a GPU: one run of DPOTrainer; writes one JSON object to --out.

Set up as fast as TRL goes: bf16, the reference's log-probs computed once before the steps are timed, gradient checkpointing
off (TRL turns it on), fused AdamW, SDPA (or --attn flash_attention_2 where it is installed), and, with --liger, Liger's
kernels.
"""
import argparse, json, os, tempfile, time

ap = argparse.ArgumentParser()
for name in ("model", "data", "out"):
    ap.add_argument("--" + name)
for name in ("pairs", "batch", "steps", "max_length"):
    ap.add_argument("--" + name, type=int)
ap.add_argument("--attn", default="sdpa")
ap.add_argument("--liger", action="store_true")
ap.add_argument("--padding_free", action="store_true")
a = ap.parse_args()

scratch = tempfile.TemporaryDirectory(prefix="gpu-trl.")  # TRL keeps reference log-probs in HF_HOME: a fresh one
os.environ.update(HF_HOME=scratch.name, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
import datasets, torch, transformers, trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Clock(TrainerCallback):
    """From the end of one step to the end of the next, the device waited for."""

    def __init__(self):
        self.wall, self.losses = [], []

    def tick(self, *_, **__):
        torch.cuda.synchronize()
        self.wall.append(time.perf_counter())

    on_train_begin = on_step_end = tick

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in (logs or {}):
            self.losses.append(float(logs["loss"]))


config = DPOConfig(
    output_dir=scratch.name, loss_type="sigmoid", beta=0.1, max_length=a.max_length, max_steps=a.steps,
    per_device_train_batch_size=a.batch, gradient_accumulation_steps=a.pairs // a.batch,
    train_sampling_strategy="sequential", learning_rate=1e-6, lr_scheduler_type="constant", warmup_steps=0,
    optim="adamw_torch_fused", weight_decay=0.0, max_grad_norm=1.0, precompute_ref_log_probs=True,
    precompute_ref_batch_size=a.batch, gradient_checkpointing=False, bf16=True, use_liger_kernel=a.liger,
    padding_free=a.padding_free, logging_steps=1, disable_tqdm=True, report_to="none", save_strategy="no", seed=42)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation=a.attn)
with open(a.data, encoding="utf-8") as f:
    pairs = datasets.Dataset.from_list([json.loads(line) for line in f])
clock = Clock()
trainer = DPOTrainer(model=model, args=config, train_dataset=pairs,
                     processing_class=AutoTokenizer.from_pretrained(a.model), callbacks=[clock])
torch.cuda.reset_peak_memory_stats()
trainer.train()
seconds = [b - c for c, b in zip(clock.wall, clock.wall[1:])]
with open(a.out, "w") as f:
    json.dump({"seconds": seconds, "losses": clock.losses, "peak_mib": torch.cuda.max_memory_reserved() / 2**20,
               "versions": {m.__name__: m.__version__ for m in (trl, torch, transformers)}}, f)
