#!/usr/bin/env python3
"""TRL's side: one run of DPOTrainer on the CPU; writes one JSON object to --out.

Set up as fast as TRL goes here: gradient checkpointing off, which TRL turns on by default; bf16 (its default: weights in
f32, products in bf16) or, without --bf16, f32; the reference's log-probs computed once, before the steps are timed; the
fused AdamW; SDPA attention.
"""
import argparse, json, os, tempfile, time

ap = argparse.ArgumentParser()
for name in ("model", "data", "out", "optim", "attn"):
    ap.add_argument("--" + name)
for name in ("pairs", "batch", "steps", "max_length", "threads", "lora"):
    ap.add_argument("--" + name, type=int, default=0)
for name in ("beta", "learning_rate"):
    ap.add_argument("--" + name, type=float)
ap.add_argument("--bf16", action="store_true")
a = ap.parse_args()
a.batch = a.batch or a.pairs

scratch = tempfile.TemporaryDirectory(prefix="versus-trl.")  # TRL keeps reference log-probs in HF_HOME: a fresh one
os.environ.update(HF_HOME=scratch.name, HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", CUDA_VISIBLE_DEVICES="",
                  ACCELERATE_USE_CPU="true")
import torch

torch.set_num_threads(a.threads)
import datasets, transformers, trl
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer


class Timed(DPOTrainer):
    """DPOTrainer, noting loss and tokens of each micro-batch and how long the reference took."""

    def __init__(self, *args, **kwargs):
        self.losses, self.tokens, self.padded, self.reference_seconds = [], [], [], 0.0
        super().__init__(*args, **kwargs)

    def _precompute_ref_logps(self, *args, **kwargs):
        t = time.perf_counter()
        result = super()._precompute_ref_logps(*args, **kwargs)
        self.reference_seconds += time.perf_counter() - t
        return result

    def compute_loss(self, model, inputs, *args, **kwargs):
        result = super().compute_loss(model, inputs, *args, **kwargs)
        self.losses.append((result[0] if isinstance(result, tuple) else result).item())
        self.tokens.append(int(inputs["attention_mask"].sum()))
        self.padded.append(inputs["input_ids"].numel())
        return result


class Clock(TrainerCallback):
    """From the end of one step to the end of the next, batches and logs included."""

    def __init__(self):
        self.wall, self.cpu, self.logs = [], [], []

    def tick(self, *_, **__):
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    on_train_begin = on_step_end = tick

    def on_log(self, args, state, control, logs=None, **_):
        self.logs.append(dict(logs or {}))


config = DPOConfig(
    output_dir=scratch.name, loss_type="sigmoid", beta=a.beta, max_length=a.max_length, max_steps=a.steps,
    per_device_train_batch_size=a.batch, gradient_accumulation_steps=a.pairs // a.batch,
    train_sampling_strategy="sequential", learning_rate=a.learning_rate, lr_scheduler_type="constant", warmup_steps=0,
    optim=a.optim, adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8, weight_decay=0.0, max_grad_norm=1.0,
    precompute_ref_log_probs=True, precompute_ref_batch_size=a.batch, gradient_checkpointing=False, bf16=a.bf16,
    fp16=False, use_cpu=True, dataloader_pin_memory=False, logging_steps=1, disable_tqdm=True, report_to="none",
    save_strategy="no", seed=42)
model = AutoModelForCausalLM.from_pretrained(a.model, dtype=torch.float32, attn_implementation=a.attn)
with open(a.data, encoding="utf-8") as f:
    pairs = datasets.Dataset.from_list([json.loads(line) for line in f])
clock = Clock()
peft_config = None
if a.lora:
    from peft import LoraConfig

    peft_config = LoraConfig(task_type="CAUSAL_LM", r=a.lora, lora_alpha=2 * a.lora, lora_dropout=0.0,
                             target_modules="all-linear")
trainer = Timed(model=model, args=config, peft_config=peft_config, train_dataset=pairs, processing_class=AutoTokenizer.from_pretrained(a.model),
                callbacks=[clock])
trainer.train()
logs = [line for line in clock.logs if "grad_norm" in line]
parts = a.pairs // a.batch
of_step = lambda values, i: sum(values[i * parts:(i + 1) * parts])
steps = [
    {"step": i + 1, "loss": of_step(trainer.losses, i) / parts, "grad_norm": float(logs[i]["grad_norm"]),
     "rewards/margins": float(logs[i]["rewards/margins"]),
     "seconds": clock.wall[i + 1] - clock.wall[i], "cpu_seconds": clock.cpu[i + 1] - clock.cpu[i],
     "tokens": of_step(trainer.tokens, i), "padded_tokens": of_step(trainer.padded, i)}
    for i in range(a.steps)
]
versions = {m.__name__: m.__version__ for m in (trl, torch, transformers)}
with open(a.out, "w") as f:
    json.dump({"versions": versions, "reference_seconds": trainer.reference_seconds, "steps": steps}, f)
