//! The table of named methods: one entry each, defaults that suit the averaging.
//!
//! A summed margin grows with length; an averaged one is 50–300 times smaller, so that an averaged twin has its own β.

use super::{Method, Parameter, Setting};

const fn number(key: &'static str, path: &'static str, default: f64, about: &'static str) -> Parameter {
    Parameter { key, path, default: Setting::Number(default), about }
}

const fn beta(default: f64) -> Parameter {
    number("beta", "/optimality/beta", default, "strength of the regularisation towards the reference")
}

/// β of a method without a reference.
const fn scale(default: f64) -> Parameter {
    number("beta", "/optimality/beta", default, "scale of the reward")
}

const fn smoothing(path: &'static str, default: f64) -> Parameter {
    number("label_smoothing", path, default, "share of the labels believed wrong")
}

const fn weight(key: &'static str, path: &'static str, default: f64, about: &'static str) -> Parameter {
    number(key, path, default, about)
}

macro_rules! methods {
    ($($name:literal: $about:literal, $formula:literal, $paper:literal, $triple:expr, $fixed:expr, $parameters:expr;)*) => {
        $(inventory::submit! { Method {
            name: $name,
            about: $about,
            formula: $formula,
            paper: $paper,
            triple: $triple,
            fixed: &$fixed,
            parameters: &$parameters,
        } })*
    };
}

methods! {
    // ANCHOR: dpo
    "dpo": "direct preference optimisation",
        "−ln σ(β(a − b))", "arXiv:2305.18290",
        ("sum", "reverse_kl", "logistic"), [],
        [beta(0.1)];
    // ANCHOR_END: dpo

    // ANCHOR: averaged-dpo
    "averaged-dpo": "direct preference optimisation, on length-averaged log-likelihoods",
        "−ln σ(β(a/n⁺ − b/n⁻))", "arXiv:2305.18290; arXiv:2406.19188",
        ("mean", "reverse_kl", "logistic"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-dpo

    // ANCHOR: averaged-dpo-end-apart
    "averaged-dpo-end-apart": "averaged DPO, the last token (where a text ends) with a weight apart from its length: an ablation",
        "−ln σ(β(a − b)), tokens weighed 1/n, the last one e", "arXiv:2305.18290; arXiv:2406.19188",
        ("mean_end_apart", "reverse_kl", "logistic"), [],
        [beta(2.0), number("end", "/averaging/end", 0.05, "e, weight of the last token, whatever the length")];
    // ANCHOR_END: averaged-dpo-end-apart

    // ANCHOR: ipo
    "ipo": "identity preference optimisation",
        "(a − b − 1/(2β))²", "arXiv:2310.12036",
        ("sum", "reverse_kl", "squared"), [],
        [beta(0.1)];
    // ANCHOR_END: ipo

    // ANCHOR: averaged-ipo
    "averaged-ipo": "identity preference optimisation, on length-averaged log-likelihoods",
        "(a/n⁺ − b/n⁻ − 1/(2β))²", "arXiv:2310.12036; arXiv:2406.19188",
        ("mean", "reverse_kl", "squared"), [],
        [beta(1.0)];
    // ANCHOR_END: averaged-ipo

    // ANCHOR: slic
    "slic": "SLiC's hinge, with a reference",
        "max(0, 1 − β(a − b))", "arXiv:2305.10425",
        ("sum", "reverse_kl", "hinge"), [],
        [beta(0.1)];
    // ANCHOR_END: slic

    // ANCHOR: averaged-slic
    "averaged-slic": "SLiC's hinge, with a reference, on length-averaged log-likelihoods",
        "max(0, 1 − β(a/n⁺ − b/n⁻))", "arXiv:2305.10425; arXiv:2406.19188",
        ("mean", "reverse_kl", "hinge"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-slic

    // ANCHOR: slic-hf
    "slic-hf": "SLiC as first published: a hinge on log-likelihoods and a supervised term",
        "max(0, δ − ln π(y⁺) + ln π(y⁻)) − λ ln π(y⁺)", "arXiv:2305.10425",
        ("sum", "none", "weighted_sum"), [("/optimality/beta", r#"1.0"#), ("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "hinge"}}, {"weight": 0.1, "loss": {"type": "supervised", "over": "sum"}}]"#)],
        [number("delta", "/loss/terms/0/loss/delta", 1.0, "margin from which on nothing is charged, in nats"), weight("sft_weight", "/loss/terms/1/weight", 0.1, "λ, weight of the supervised term")];
    // ANCHOR_END: slic-hf

    // ANCHOR: cdpo
    "cdpo": "conservative DPO: some labels are wrong",
        "−(1−ε) ln σ(z) − ε ln σ(−z), z = β(a − b)", "Mitchell 2023, ericmitchell.ai/cdpo.pdf",
        ("sum", "reverse_kl", "cdpo"), [],
        [beta(0.1), smoothing("/loss/label_smoothing", 0.1)];
    // ANCHOR_END: cdpo

    // ANCHOR: averaged-cdpo
    "averaged-cdpo": "conservative DPO: some labels are wrong, on length-averaged log-likelihoods",
        "−(1−ε) ln σ(z) − ε ln σ(−z), z = β(a/n⁺ − b/n⁻)", "Mitchell 2023, ericmitchell.ai/cdpo.pdf; arXiv:2406.19188",
        ("mean", "reverse_kl", "cdpo"), [],
        [beta(2.0), smoothing("/loss/label_smoothing", 0.1)];
    // ANCHOR_END: averaged-cdpo

    // ANCHOR: robust-dpo
    "robust-dpo": "robust DPO: unbiased when some labels are wrong",
        "[−(1−ε) ln σ(z) + ε ln σ(−z)]/(1 − 2ε), z = β(a − b)", "arXiv:2403.00409",
        ("sum", "reverse_kl", "robust"), [],
        [beta(0.1), smoothing("/loss/label_smoothing", 0.1)];
    // ANCHOR_END: robust-dpo

    // ANCHOR: averaged-robust-dpo
    "averaged-robust-dpo": "robust DPO: unbiased when some labels are wrong, on length-averaged log-likelihoods",
        "[−(1−ε) ln σ(z) + ε ln σ(−z)]/(1 − 2ε), z = β(a/n⁺ − b/n⁻)", "arXiv:2403.00409; arXiv:2406.19188",
        ("mean", "reverse_kl", "robust"), [],
        [beta(2.0), smoothing("/loss/label_smoothing", 0.1)];
    // ANCHOR_END: averaged-robust-dpo

    // ANCHOR: exo
    "exo": "efficient exact optimisation, for pairs",
        "q ln(q/(1−ε)) + (1−q) ln((1−q)/ε), q = σ(β(a − b))", "arXiv:2402.00856",
        ("sum", "reverse_kl", "exo"), [],
        [beta(0.1), smoothing("/loss/label_smoothing", 0.001)];
    // ANCHOR_END: exo

    // ANCHOR: averaged-exo
    "averaged-exo": "efficient exact optimisation, for pairs, on length-averaged log-likelihoods",
        "q ln(q/(1−ε)) + (1−q) ln((1−q)/ε), q = σ(β(a/n⁺ − b/n⁻))", "arXiv:2402.00856; arXiv:2406.19188",
        ("mean", "reverse_kl", "exo"), [],
        [beta(2.0), smoothing("/loss/label_smoothing", 0.001)];
    // ANCHOR_END: averaged-exo

    // ANCHOR: nca
    "nca": "noise-contrastive alignment, for pairs",
        "−ln σ(βa) − ½ ln σ(−βa) − ½ ln σ(−βb)", "arXiv:2402.05369",
        ("sum", "reverse_kl", "nca"), [],
        [beta(0.1)];
    // ANCHOR_END: nca

    // ANCHOR: averaged-nca
    "averaged-nca": "noise-contrastive alignment, for pairs, on length-averaged log-likelihoods",
        "−ln σ(βa/n⁺) − ½ ln σ(−βa/n⁺) − ½ ln σ(−βb/n⁻)", "arXiv:2402.05369; arXiv:2406.19188",
        ("mean", "reverse_kl", "nca"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-nca

    // ANCHOR: bco
    "bco": "binary classifier optimisation, for pairs",
        "−ln σ(βa) − ln σ(−βb)", "arXiv:2404.04656",
        ("sum", "reverse_kl", "bco"), [],
        [beta(0.1)];
    // ANCHOR_END: bco

    // ANCHOR: averaged-bco
    "averaged-bco": "binary classifier optimisation, for pairs, on length-averaged log-likelihoods",
        "−ln σ(βa/n⁺) − ln σ(−βb/n⁻)", "arXiv:2404.04656; arXiv:2406.19188",
        ("mean", "reverse_kl", "bco"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-bco

    // ANCHOR: sppo
    "sppo": "self-play preference optimisation, hard labels",
        "(a − 1/(2β))² + (b + 1/(2β))²", "arXiv:2405.00675",
        ("sum", "reverse_kl", "sppo"), [],
        [beta(0.1)];
    // ANCHOR_END: sppo

    // ANCHOR: averaged-sppo
    "averaged-sppo": "self-play preference optimisation, hard labels, on length-averaged log-likelihoods",
        "(a/n⁺ − 1/(2β))² + (b/n⁻ + 1/(2β))²", "arXiv:2405.00675; arXiv:2406.19188",
        ("mean", "reverse_kl", "sppo"), [],
        [beta(1.0)];
    // ANCHOR_END: averaged-sppo

    // ANCHOR: apo-zero
    "apo-zero": "anchored preference optimisation: the chosen up, the rejected down",
        "1 − σ(βa) + σ(βb)", "arXiv:2408.06266",
        ("sum", "reverse_kl", "apo_zero"), [],
        [beta(0.1)];
    // ANCHOR_END: apo-zero

    // ANCHOR: averaged-apo-zero
    "averaged-apo-zero": "anchored preference optimisation: the chosen up, the rejected down, on length-averaged log-likelihoods",
        "1 − σ(βa/n⁺) + σ(βb/n⁻)", "arXiv:2408.06266; arXiv:2406.19188",
        ("mean", "reverse_kl", "apo_zero"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-apo-zero

    // ANCHOR: apo-down
    "apo-down": "anchored preference optimisation: both down, the rejected more",
        "σ(βa) + 1 − σ(β(a − b))", "arXiv:2408.06266",
        ("sum", "reverse_kl", "apo_down"), [],
        [beta(0.1)];
    // ANCHOR_END: apo-down

    // ANCHOR: averaged-apo-down
    "averaged-apo-down": "anchored preference optimisation: both down, the rejected more, on length-averaged log-likelihoods",
        "σ(βa/n⁺) + 1 − σ(β(a/n⁺ − b/n⁻))", "arXiv:2408.06266; arXiv:2406.19188",
        ("mean", "reverse_kl", "apo_down"), [],
        [beta(2.0)];
    // ANCHOR_END: averaged-apo-down

    // ANCHOR: discopop
    "discopop": "a loss found by search",
        "(1−m)(−ln σ(z)) + m e^(−z), m = σ(z/τ), z = β(a − b)", "arXiv:2406.08414",
        ("sum", "reverse_kl", "discopop"), [],
        [beta(0.1), number("discopop_tau", "/loss/tau", 0.05, "width of the passage from logistic to exponential")];
    // ANCHOR_END: discopop

    // ANCHOR: averaged-discopop
    "averaged-discopop": "a loss found by search, on length-averaged log-likelihoods",
        "(1−m)(−ln σ(z)) + m e^(−z), m = σ(z/τ), z = β(a/n⁺ − b/n⁻)", "arXiv:2406.08414; arXiv:2406.19188",
        ("mean", "reverse_kl", "discopop"), [],
        [beta(2.0), number("discopop_tau", "/loss/tau", 0.05, "width of the passage from logistic to exponential")];
    // ANCHOR_END: averaged-discopop

    // ANCHOR: aot
    "aot": "alignment by optimal transport: sorted score differences of the batch",
        "−(1−ε) ln σ(δ) − ε ln σ(−δ), δ = β(sort(s(π⁺) − s(π⁻)) − sort(s(μ⁺) − s(μ⁻)))", "arXiv:2406.05882",
        ("sum", "reverse_kl", "aot"), [],
        [beta(0.1), smoothing("/loss/label_smoothing", 0.0)];
    // ANCHOR_END: aot

    // ANCHOR: averaged-aot
    "averaged-aot": "alignment by optimal transport: sorted score differences of the batch, on length-averaged log-likelihoods",
        "as aot, s the mean", "arXiv:2406.05882; arXiv:2406.19188",
        ("mean", "reverse_kl", "aot"), [],
        [beta(2.0), smoothing("/loss/label_smoothing", 0.0)];
    // ANCHOR_END: averaged-aot

    // ANCHOR: aot-unpaired
    "aot-unpaired": "alignment by optimal transport: sorted rewards of the batch",
        "−(1−ε) ln σ(δ) − ε ln σ(−δ), δ = sort(βa) − sort(βb)", "arXiv:2406.05882",
        ("sum", "reverse_kl", "aot_unpaired"), [],
        [beta(0.1), smoothing("/loss/label_smoothing", 0.0)];
    // ANCHOR_END: aot-unpaired

    // ANCHOR: averaged-aot-unpaired
    "averaged-aot-unpaired": "alignment by optimal transport: sorted rewards of the batch, on length-averaged log-likelihoods",
        "−(1−ε) ln σ(δ) − ε ln σ(−δ), δ = sort(βa/n⁺) − sort(βb/n⁻)", "arXiv:2406.05882; arXiv:2406.19188",
        ("mean", "reverse_kl", "aot_unpaired"), [],
        [beta(2.0), smoothing("/loss/label_smoothing", 0.0)];
    // ANCHOR_END: averaged-aot-unpaired

    // ANCHOR: f-dpo
    "f-dpo": "DPO under another divergence",
        "−ln σ(β(f′(e^a) − f′(e^b)))", "arXiv:2309.16240",
        ("sum", "js_divergence", "logistic"), [],
        [beta(0.1), Parameter { key: "f_divergence_type", path: "/optimality/type", default: Setting::Text("js_divergence"), about: "reverse_kl, forward_kl, js_divergence or alpha_divergence" }, Parameter { key: "f_alpha_divergence_coef", path: "/optimality/alpha", default: Setting::Unset, about: "α of alpha_divergence, 0.5 if left out" }];
    // ANCHOR_END: f-dpo

    // ANCHOR: averaged-f-dpo
    "averaged-f-dpo": "DPO under another divergence, on length-averaged log-likelihoods",
        "−ln σ(β(f′(e^(a/n⁺)) − f′(e^(b/n⁻))))", "arXiv:2309.16240; arXiv:2406.19188",
        ("mean", "js_divergence", "logistic"), [],
        [beta(2.0), Parameter { key: "f_divergence_type", path: "/optimality/type", default: Setting::Text("js_divergence"), about: "reverse_kl, forward_kl, js_divergence or alpha_divergence" }, Parameter { key: "f_alpha_divergence_coef", path: "/optimality/alpha", default: Setting::Unset, about: "α of alpha_divergence, 0.5 if left out" }];
    // ANCHOR_END: averaged-f-dpo

    // ANCHOR: simpo
    "simpo": "simple preference optimisation: mean log-likelihood, no reference",
        "−ln σ(β(ln π(y⁺)/n⁺ − ln π(y⁻)/n⁻) − γ)", "arXiv:2405.14734",
        ("mean", "none", "target_margin"), [("/loss/loss", r#"{"type": "logistic"}"#)],
        [scale(2.0), number("simpo_gamma", "/loss/gamma", 1.0, "γ, the target margin on the scale of rewards")];
    // ANCHOR_END: simpo

    // ANCHOR: alphapo
    "alphapo": "SimPO on an α-shaped reward",
        "−ln σ(r⁺ − r⁻ − γ), r = β(1 − p^(−α))/α, p = π(y)^(1/n)", "arXiv:2501.03884",
        ("mean", "alpha_shaped", "target_margin"), [("/loss/loss", r#"{"type": "logistic"}"#)],
        [scale(2.0), number("alpha", "/optimality/alpha", 0.25, "α, the power that shapes the reward"), number("simpo_gamma", "/loss/gamma", 1.0, "γ, the target margin on the scale of rewards")];
    // ANCHOR_END: alphapo

    // ANCHOR: cpo
    "cpo": "contrastive preference optimisation: no reference, and a supervised term",
        "−ln σ(β(ln π(y⁺) − ln π(y⁻))) + α NLL(y⁺)", "arXiv:2401.08417",
        ("sum", "none", "weighted_sum"), [("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "logistic"}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "batch"}}]"#)],
        [scale(0.1), weight("cpo_alpha", "/loss/terms/1/weight", 1.0, "α, weight of the supervised term, a mean over the batch's tokens")];
    // ANCHOR_END: cpo

    // ANCHOR: cpo-simpo
    "cpo-simpo": "SimPO with a supervised term",
        "−ln σ(β(ln π(y⁺)/n⁺ − ln π(y⁻)/n⁻) − γ) + α NLL(y⁺)", "arXiv:2405.14734; arXiv:2401.08417",
        ("mean", "none", "weighted_sum"), [("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "target_margin", "loss": {"type": "logistic"}}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "batch"}}]"#)],
        [scale(2.0), number("simpo_gamma", "/loss/terms/0/loss/gamma", 1.0, "γ, the target margin on the scale of rewards"), weight("cpo_alpha", "/loss/terms/1/weight", 1.0, "α, weight of the supervised term, a mean over the batch's tokens")];
    // ANCHOR_END: cpo-simpo

    // ANCHOR: orpo
    "orpo": "odds-ratio preference optimisation: no reference",
        "NLL(y⁺) − λ ln σ(ln odds⁺ − ln odds⁻), odds of π(y)^(1/n)", "arXiv:2403.07691",
        ("mean", "odds", "weighted_sum"), [("/optimality/beta", r#"1.0"#), ("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "supervised", "over": "batch"}}, {"weight": 0.1, "loss": {"type": "logistic"}}]"#)],
        [weight("lambda", "/loss/terms/1/weight", 0.1, "λ, weight of the odds ratio; TRL calls it beta")];
    // ANCHOR_END: orpo

    // ANCHOR: r-dpo
    "r-dpo": "DPO with a price on every token",
        "−ln σ(β(a − b) + α(n⁺ − n⁻))", "arXiv:2403.19159",
        ("sum", "length_penalised", "logistic"), [],
        [beta(0.1), number("alpha", "/optimality/alpha", 0.01, "price of a token; above 0 it penalises length")];
    // ANCHOR_END: r-dpo

    // ANCHOR: ld-dpo
    "ld-dpo": "length-desensitised DPO: what goes beyond the shorter length counts less",
        "−ln σ(β(a − b)), tokens beyond min(n⁺, n⁻) weighed α", "arXiv:2409.06411",
        ("length_desensitised", "reverse_kl", "logistic"), [],
        [beta(0.1), number("ld_alpha", "/averaging/alpha", 0.5, "α, weight of a token beyond the shorter length")];
    // ANCHOR_END: ld-dpo

    // ANCHOR: sampo
    "sampo": "DPO on as many tokens as the shorter completion has, drawn at random",
        "−ln σ(β(a − b)) over min(n⁺, n⁻) drawn tokens", "arXiv:2406.10957",
        ("down_sampled", "reverse_kl", "logistic"), [],
        [beta(0.1), Parameter { key: "sampling_seed", path: "/averaging/seed", default: Setting::Whole(0), about: "seed of the draw" }];
    // ANCHOR_END: sampo

    // ANCHOR: power-dpo
    "power-dpo": "DPO between sum and mean",
        "−ln σ(β(a/n⁺^α − b/n⁻^α))", "arXiv:2406.19188",
        ("power", "reverse_kl", "logistic"), [],
        [beta(0.5), number("alpha", "/averaging/alpha", 0.5, "α, from 0 (sum) to 1 (mean); β grows with it")];
    // ANCHOR_END: power-dpo

    // ANCHOR: dpop
    "dpop": "DPO-positive: a chosen completion must not get less likely",
        "−ln σ(β(a − b − λ max(0, −a)))", "arXiv:2402.13228",
        ("sum", "reverse_kl", "dpop"), [],
        [beta(0.1), number("dpop_lambda", "/loss/penalty", 50.0, "λ, price of a fallen log-likelihood")];
    // ANCHOR_END: dpop

    // ANCHOR: averaged-dpop
    "averaged-dpop": "DPO-positive: a chosen completion must not get less likely, on length-averaged log-likelihoods",
        "−ln σ(β(a/n⁺ − b/n⁻ − λ max(0, −a/n⁺)))", "arXiv:2402.13228; arXiv:2406.19188",
        ("mean", "reverse_kl", "dpop"), [],
        [beta(2.0), number("dpop_lambda", "/loss/penalty", 50.0, "λ, price of a fallen log-likelihood")];
    // ANCHOR_END: averaged-dpop

    // ANCHOR: wpo
    "wpo": "DPO weighed by how likely the policy is to write the pair",
        "−w⁺ w⁻ ln σ(β(a − b))", "arXiv:2406.11827",
        ("sum", "reverse_kl", "wpo"), [("/loss/loss", r#"{"type": "logistic"}"#)],
        [beta(0.1)];
    // ANCHOR_END: wpo

    // ANCHOR: averaged-wpo
    "averaged-wpo": "DPO weighed by how likely the policy is to write the pair, on length-averaged log-likelihoods",
        "−w⁺ w⁻ ln σ(β(a/n⁺ − b/n⁻))", "arXiv:2406.11827; arXiv:2406.19188",
        ("mean", "reverse_kl", "wpo"), [("/loss/loss", r#"{"type": "logistic"}"#)],
        [beta(2.0)];
    // ANCHOR_END: averaged-wpo

    // ANCHOR: mpo
    "mpo": "mixed preference optimisation: DPO, BCO and a supervised term",
        "w₁ (−ln σ(β(a − b))) + w₂ (−ln σ(βa) − ln σ(−βb)) + w₃ NLL(y⁺)", "arXiv:2411.10442",
        ("sum", "reverse_kl", "weighted_sum"), [("/loss/terms", r#"[{"weight": 0.8, "loss": {"type": "logistic"}}, {"weight": 0.2, "loss": {"type": "bco"}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "batch"}}]"#)],
        [beta(0.1), weight("dpo_weight", "/loss/terms/0/weight", 0.8, "weight of the logistic loss"), weight("bco_weight", "/loss/terms/1/weight", 0.2, "weight of the binary classifier"), weight("sft_weight", "/loss/terms/2/weight", 1.0, "weight of the supervised term")];
    // ANCHOR_END: mpo

    // ANCHOR: averaged-mpo
    "averaged-mpo": "mixed preference optimisation: DPO, BCO and a supervised term, on length-averaged log-likelihoods",
        "as mpo, on a/n⁺ and b/n⁻", "arXiv:2411.10442; arXiv:2406.19188",
        ("mean", "reverse_kl", "weighted_sum"), [("/loss/terms", r#"[{"weight": 0.8, "loss": {"type": "logistic"}}, {"weight": 0.2, "loss": {"type": "bco"}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "batch"}}]"#)],
        [beta(2.0), weight("dpo_weight", "/loss/terms/0/weight", 0.8, "weight of the logistic loss"), weight("bco_weight", "/loss/terms/1/weight", 0.2, "weight of the binary classifier"), weight("sft_weight", "/loss/terms/2/weight", 1.0, "weight of the supervised term")];
    // ANCHOR_END: averaged-mpo

    // ANCHOR: rpo
    "rpo": "DPO with a supervised term on each chosen completion",
        "−ln σ(β(a − b)) − α ln π(y⁺)/n⁺", "arXiv:2404.19733",
        ("sum", "reverse_kl", "weighted_sum"), [("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "logistic"}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "completion"}}]"#)],
        [beta(0.1), weight("rpo_alpha", "/loss/terms/1/weight", 1.0, "α, weight of the supervised term")];
    // ANCHOR_END: rpo

    // ANCHOR: averaged-rpo
    "averaged-rpo": "DPO with a supervised term on each chosen completion, on length-averaged log-likelihoods",
        "−ln σ(β(a/n⁺ − b/n⁻)) − α ln π(y⁺)/n⁺", "arXiv:2404.19733; arXiv:2406.19188",
        ("mean", "reverse_kl", "weighted_sum"), [("/loss/terms", r#"[{"weight": 1.0, "loss": {"type": "logistic"}}, {"weight": 1.0, "loss": {"type": "supervised", "over": "completion"}}]"#)],
        [beta(2.0), weight("rpo_alpha", "/loss/terms/1/weight", 1.0, "α, weight of the supervised term")];
    // ANCHOR_END: averaged-rpo
}
