//! The same text however it comes about; and the options against transformers.

use burn::tensor::Device;

use super::*;
use crate::decoder::tests::architectures;
use crate::layout::{Layout, Text as Row};
use crate::oracle::elsewhere;
use crate::params::Tensors;
use crate::precision::Precision;

/// A decoder of random weights that are large enough for a choice.
fn decoder(config: crate::ModelConfig, device: &Device) -> Decoder {
    let small = Decoder::random(config, 3, device);
    let large = small.parameters().0.iter().map(|p| p.clone() * 12.0).collect();
    Decoder::new(small.config.clone(), Tensors(large), device)
}

fn prompts() -> Vec<Vec<u32>> {
    let long = (0..35).map(|i| (i * 7 + 3) % 40).collect();
    vec![vec![1, 7, 9], long, vec![5], vec![1, 7, 9, 30], (0..16).collect(), vec![39; 17]]
}

const STOP: [u32; 4] = [2, 11, 17, 23];

fn greedy() -> Sampling {
    Sampling { max_new_tokens: 21, ..Sampling::default() }
}

fn sampled() -> Sampling {
    Sampling {
        do_sample: true,
        temperature: 1.3,
        top_k: 25,
        top_p: 0.95,
        min_p: 0.01,
        repetition_penalty: 1.1,
        num_return_sequences: 3,
        ..greedy()
    }
}

fn write(d: &Decoder, prompts: &[Vec<u32>], sampling: &Sampling, batch: usize) -> Vec<Vec<Written>> {
    d.generate(prompts, sampling, &STOP, batch, &mut |_, _| Ok(())).unwrap()
}

/// Without a cache: all of the text anew for each token, by the way that training goes.
fn over_again(d: &Decoder, prompt: &[u32], sampling: &Sampling, sample: usize) -> Written {
    let mut chooser = Chooser::new(sampling, prompt, sample, d.config.vocab_size);
    let mut written = Written::default();
    while written.tokens.len() < sampling.max_new_tokens && !written.ended {
        let mut layout = Layout::default();
        layout.push(&[prompt, &written.tokens].concat(), &[Row::whole(&[0])], true).unwrap();
        let logits = d.hidden_states(&layout).unwrap().matmul(d.params.get(d.head()).clone().transpose());
        let mut logits = logits.into_data().convert::<f32>().try_into_vec().unwrap();
        let token = chooser.choose(sampling, &mut logits).unwrap();
        written.tokens.push(token);
        written.ended = STOP.contains(&token);
    }
    written
}

#[test]
fn texts_are_the_same_batched_and_alone_with_a_cache_and_without() {
    for (name, config) in architectures() {
        let d = decoder(config, &Device::flex());
        for sampling in [greedy(), sampled()] {
            let expected = write(&d, &prompts(), &sampling, 64);
            assert!(
                expected.iter().flatten().any(|w| w.ended) && expected.iter().flatten().any(|w| !w.ended),
                "{name}"
            );
            for batch in [1, 2, 5] {
                assert_eq!(write(&d, &prompts(), &sampling, batch), expected, "{name}, {batch} at a time");
            }
            let mut backwards = prompts();
            backwards.reverse();
            let mut got = write(&d, &backwards, &sampling, 4);
            got.reverse();
            assert_eq!(got, expected, "{name}, in another order");
            for (prompt, expected) in prompts().iter().zip(&expected) {
                assert_eq!(
                    write(&d, std::slice::from_ref(prompt), &sampling, 1),
                    std::slice::from_ref(expected),
                    "{name}, alone"
                );
                for (sample, expected) in expected.iter().enumerate() {
                    assert_eq!(over_again(&d, prompt, &sampling, sample), *expected, "{name}, without a cache");
                }
                let mut one = Generation::start(&d, prompt, sampling.clone()).unwrap();
                let streamed: Vec<u32> = expected[0].tokens.iter().map(|_| one.step().unwrap().unwrap()).collect();
                assert_eq!(streamed, expected[0].tokens, "{name}, one by one");
            }
        }
    }
}

#[test]
fn another_backend_and_tensor_operations_write_the_same() {
    for (name, config) in architectures() {
        let d = decoder(config.clone(), &Device::flex());
        for sampling in [greedy(), sampled()] {
            let expected = write(&d, &prompts(), &sampling, 4);
            let plain = d.clone().with_kernels(Default::default());
            let there = decoder(config.clone(), &elsewhere());
            for (way, other) in [("tensor operations", plain), ("another backend", there)] {
                for batch in [1, 4] {
                    assert_eq!(write(&other, &prompts(), &sampling, batch), expected, "{name}, {way}, {batch}");
                }
            }
        }
    }
}

#[test]
fn narrow_types_write_the_same_in_any_batch() {
    for precision in [Precision::Bf16, Precision::F16] {
        for (name, config) in architectures() {
            let d = decoder(config, &Device::flex()).with_precision(precision, false).unwrap();
            for sampling in [greedy(), sampled()] {
                let expected = write(&d, &prompts(), &sampling, 64);
                for batch in [1, 5] {
                    assert_eq!(write(&d, &prompts(), &sampling, batch), expected, "{name}, {precision:?}, {batch}");
                }
            }
        }
    }
}

#[test]
fn samples_differ_and_follow_from_the_seed() {
    let d = decoder(architectures().remove(0).1, &Device::flex());
    let write = |seed| write(&d, &prompts(), &Sampling { seed, ..sampled() }, 4);
    let first = write(1);
    assert_eq!(first, write(1));
    assert_ne!(first, write(2));
    assert!(first.iter().any(|all| all[0] != all[1] && all[1] != all[2]));
}

#[test]
fn texts_end_where_the_model_does_and_prompts_beyond_are_refused() {
    let d = decoder(architectures().remove(0).1, &Device::flex());
    let limit = d.config.max_position_embeddings;
    let of = |n: usize| vec![vec![3u32; n], vec![4; 2]];
    let long = Sampling { max_new_tokens: 1000, ..greedy() };
    let write = |prompts: &[Vec<u32>]| d.generate(prompts, &long, &[], 2, &mut |_, _| Ok(()));
    for n in [limit, limit - 1, 10] {
        let got = write(&of(n)).unwrap();
        assert_eq!((got[0][0].tokens.len(), got[1][0].tokens.len()), (limit - n, limit - 2));
        assert!(got.iter().flatten().all(|w| !w.ended));
    }
    let said = |prompts: &[Vec<u32>]| write(prompts).unwrap_err().to_string();
    assert_eq!(said(&of(limit + 1)), "prompt 1 of 2 has 65 tokens, the model takes 64");
    assert_eq!(said(&[vec![1], vec![]]), "prompt 2 of 2 has no tokens");
    assert_eq!(
        said(&[vec![1], vec![7, 40]]),
        "prompt 2 of 2 has token id 40, which is outside the model's vocabulary of 40"
    );
}

#[test]
fn finished_prompts_are_told_and_may_stop_the_work() {
    let d = decoder(architectures().remove(0).1, &Device::flex());
    let mut told = Vec::new();
    let all = d.generate(&prompts(), &sampled(), &STOP, 4, &mut |prompt, texts| {
        told.push((prompt, texts.to_vec()));
        Ok(())
    });
    told.sort_by_key(|t| t.0);
    assert_eq!(told, all.unwrap().into_iter().enumerate().collect::<Vec<_>>());
    let mut calls = 0;
    let stopped = d.generate(&prompts(), &sampled(), &STOP, 4, &mut |_, _| {
        calls += 1;
        Err(Error::Sequence("enough".into()))
    });
    assert_eq!((stopped.unwrap_err().to_string().as_str(), calls), ("enough", 1));
}

#[test]
fn a_restart_keeps_what_is_the_same_and_nothing_else() {
    let d = decoder(architectures().remove(2).1, &Device::flex());
    let mut one = Generation::start(&d, &[1, 7, 9, 30], sampled()).unwrap();
    let first: Vec<u32> = (0..20).map(|_| one.step().unwrap().unwrap()).collect();
    let turn = [&[1, 7, 9, 30], &first[..15], &[33, 34]].concat();
    for prompt in [turn, vec![1, 7, 8], vec![1, 7], vec![6; 40]] {
        one.restart(&prompt).unwrap();
        let mut fresh = Generation::start(&d, &prompt, sampled()).unwrap();
        for _ in 0..18 {
            assert_eq!(one.step().unwrap(), fresh.step().unwrap());
        }
    }
    assert!(one.restart(&[]).is_err());
}

#[test]
fn options_without_meaning_are_refused_by_name() {
    let said = |s: Sampling| s.validate().unwrap_err().to_string();
    let some = Sampling::default;
    assert!(said(Sampling { temperature: 0.0, ..some() }).starts_with("temperature must be above 0, got 0"));
    assert!(said(Sampling { temperature: f64::NAN, ..some() }).starts_with("temperature"));
    assert_eq!(said(Sampling { top_p: 1.5, ..some() }), "top_p must be above 0 and at most 1, got 1.5");
    assert_eq!(said(Sampling { min_p: -0.5, ..some() }), "min_p must be 0 to 1, got -0.5");
    let penalty = Sampling { repetition_penalty: 0.0, ..some() };
    assert_eq!(said(penalty), "repetition_penalty must be above 0, got 0");
    assert_eq!(said(Sampling { max_new_tokens: 0, ..some() }), "max_new_tokens must be at least 1");
    assert_eq!(said(Sampling { num_return_sequences: 0, ..some() }), "num_return_sequences must be at least 1");
    assert!(said(Sampling { num_return_sequences: 2, ..some() }).contains("without do_sample"));
}

#[test]
fn logits_that_are_no_numbers_are_an_error() {
    let d = decoder(architectures().remove(0).1, &Device::flex());
    let broken = d.parameters().0.iter().map(|p| p.clone() * f32::NAN).collect();
    let d = Decoder::new(d.config.clone(), Tensors(broken), &Device::flex());
    for sampling in [greedy(), sampled()] {
        let said = d.generate(&prompts(), &sampling, &STOP, 4, &mut |_, _| Ok(())).unwrap_err().to_string();
        assert_eq!(said, "behind a text of 3 tokens the model's logits are not finite numbers");
    }
}

/// tests/fixtures/sampling.json, made with transformers by tests/fixtures/make/sampling.py.
#[test]
fn what_is_left_of_logits_is_what_transformers_leaves() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/sampling.json");
    let golden: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let numbers = |v: &serde_json::Value| v.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let prompt: Vec<u32> = numbers(&golden["prompt"]).into_iter().map(|t| t as u32).collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 30);
    for case in cases {
        let option = |name: &str, without: f64| case["options"].get(name).map_or(without, |v| v.as_f64().unwrap());
        let sampling = Sampling {
            do_sample: true,
            temperature: option("temperature", 1.0),
            top_k: option("top_k", 0.0) as usize,
            top_p: option("top_p", 1.0),
            min_p: option("min_p", 0.0),
            repetition_penalty: option("repetition_penalty", 1.0),
            ..Sampling::default()
        };
        let mut l: Vec<f32> = numbers(&case["logits"]).into_iter().map(|l| l as f32).collect();
        let chooser = Chooser::new(&sampling, &prompt, 0, l.len());
        chooser.left(&sampling, &mut l).unwrap();
        let total: f64 = l.iter().map(|w| f64::from(*w)).sum();
        let mut got: Vec<(usize, f64)> =
            l.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(i, w)| (i, f64::from(*w) / total)).collect();
        let kept = case["kept"].as_object().unwrap().iter();
        let mut expected: Vec<(usize, f64)> =
            kept.map(|(i, p)| (i.parse().unwrap(), p.as_f64().unwrap())).filter(|(_, p)| *p > 1e-30).collect();
        // Which of several equal ones is the last that is kept, is nowhere said: those go by their likelihood.
        let least = expected.iter().map(|(_, p)| *p).fold(f64::MAX, f64::min) * (1.0 + 1e-5);
        for all in [&mut got, &mut expected] {
            all.iter_mut().filter(|(_, p)| *p <= least).for_each(|(i, _)| *i = usize::MAX);
            all.sort_by_key(|(i, _)| *i);
        }
        assert_eq!(got.len(), expected.len(), "{}", case["options"]);
        for ((i, p), (j, q)) in got.iter().zip(&expected) {
            assert!(i == j && (p / q - 1.0).abs() < 1e-4, "{}: {i} {p} is not {j} {q}", case["options"]);
        }
    }
}

#[test]
fn draws_come_as_often_as_they_are_likely() {
    let logits: Vec<f32> = (0..700).map(|i| if i % 100 == 7 { (i as f32 / 300.0).sin() * 2.0 } else { -9.0 }).collect();
    let sampling = Sampling { do_sample: true, top_k: 7, ..Sampling::default() };
    let mut weights = logits.clone();
    Chooser::new(&sampling, &[], 0, 700).left(&sampling, &mut weights).unwrap();
    let total: f32 = weights.iter().sum();
    const N: usize = 20_000;
    let mut counts = vec![0usize; 700];
    for sample in 0..N {
        let mut chooser = Chooser::new(&sampling, &[1, 2], sample, 700);
        counts[chooser.choose(&sampling, &mut logits.clone()).unwrap() as usize] += 1;
    }
    for (count, w) in counts.iter().zip(&weights) {
        let p = f64::from(w / total);
        let deviation = (p * (1.0 - p) / N as f64).sqrt();
        assert!((*count as f64 / N as f64 - p).abs() <= 4.0 * deviation, "{count} of {N}, expected {p}");
    }
}
