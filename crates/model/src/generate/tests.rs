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
                assert_eq!(write(&d, std::slice::from_ref(prompt), &sampling, 1), [expected.clone()], "{name}, alone");
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
