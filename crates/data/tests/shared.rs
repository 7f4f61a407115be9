//! Real material beside the repository: data sets as people publish them, golden encodings and renders. Where it is
//! missing, these tests are reported as ignored.

mod common;

use std::path::Path;

use collimate_data::options::{Boundary, Policy};
use collimate_data::{ChatTemplate, Dirt, Example, Format, Options, Report, Row, Source, Tokenizer, inspect, load};
use common::{examples, file, shared};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};

/// Each by its name.
macro_rules! tests {
    ($($name:ident),* $(,)?) => { [$((stringify!($name), $name as fn(&Path))),*] };
}

fn main() {
    let tests = tests![
        hh_rlhf_is_the_same_in_every_form,
        llama_factory_is_the_same_in_every_form,
        pandalm_reports_its_empty_answers,
        rejection_sampled_rows_load,
        renders_are_those_of_transformers,
        gpt2_agrees_with_golden_encodings,
        streamed_text_is_the_decoded_text,
        boundary_policies_on_tinystories,
        hh_rlhf_has_its_length_bias,
        dirt_is_counted_not_refused,
        ids_are_those_of_trl,
        special_tokens_of_a_checkpoint,
    ];
    let data = shared();
    let trials = tests.map(|(name, test)| {
        let folder = data.clone();
        let run = move || {
            test(&folder.expect("an ignored test is not run"));
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(data.is_none())
    });
    libtest_mimic::run(&Arguments::from_args(), trials.into()).exit();
}

fn dropping() -> Options {
    Options {
        empty_completion: Policy::Drop,
        identical_pair: Policy::Drop,
        differing_prompts: Policy::Drop,
        ..Options::default()
    }
}

fn counts(report: &Report) -> Vec<(Dirt, usize, usize)> {
    report.dirt.iter().map(|(kind, d)| (*kind, d.found, d.dropped)).collect()
}

/// An hh-rlhf dialogue as the messages that it stands for.
fn dialogue(text: &str) -> Vec<(String, String)> {
    text.split("\n\nHuman:")
        .skip(1)
        .flat_map(|turn| {
            let mut said = turn.split("\n\nAssistant:");
            let user = ("user".to_owned(), said.next().unwrap_or_default().trim().to_owned());
            std::iter::once(user).chain(said.map(|t| ("assistant".to_owned(), t.trim().to_owned())))
        })
        .collect()
}

fn turns(messages: &[Value]) -> Vec<(String, String)> {
    let text = |m: &Value, key: &str| m[key].as_str().unwrap().trim().to_owned();
    messages.iter().map(|m| (text(m, "role"), text(m, "content"))).collect()
}

fn hh_rlhf_is_the_same_in_every_form(data: &Path) {
    let folder = data.join("hh-rlhf");
    let load = |name: &str| examples(&folder.join(name), &dropping()).unwrap();

    let (standard, report) = load("derived/helpful_standard.jsonl.gz");
    assert_eq!((standard.len(), report.files[0].format), (2339, Some(Format::Standard)));
    assert_eq!(counts(&report), []);
    let (parquet, report) = load("derived/helpful_standard.parquet");
    assert_eq!(report.files[0].format, Some(Format::Standard));
    assert!(parquet == standard, "Parquet and JSONL differ");

    // The raw file has the same pairs, and 15 rows with dirt: 9 + 2 + 4, counted by splitting each side at the last
    // "\n\nAssistant:" in a Python script.
    let (raw, report) = load("helpful-base-test.jsonl.gz");
    assert_eq!((report.rows, report.files[0].format), (2354, Some(Format::ImplicitStandard)));
    assert_eq!(
        counts(&report),
        [(Dirt::DifferingPrompts, 9, 9), (Dirt::EmptyRejected, 4, 4), (Dirt::IdenticalPair, 2, 2)]
    );
    assert!(raw == standard, "raw and derived differ");

    let (chat, report) = load("derived/helpful_conversational.parquet");
    assert_eq!((chat.len(), report.files[0].format), (2333, Some(Format::Conversational)));
    // The conversational file was made without the 6 dialogues in which one side speaks twice.
    let alternates = |example: &&Example| {
        let Example::Plain { prompt, .. } = example else { return false };
        let speakers: Vec<_> = dialogue(prompt).into_iter().map(|(who, _)| who).collect();
        speakers.iter().enumerate().all(|(i, who)| who == ["user", "assistant"][i % 2])
    };
    let alternating: Vec<_> = standard.iter().filter(alternates).collect();
    assert_eq!(alternating.len(), 2333);
    for (chat, plain) in chat.iter().zip(alternating) {
        let (Example::Chat { prompt: p, chosen: c, rejected: r, .. }, Example::Plain { prompt, chosen, rejected }) =
            (chat, plain)
        else {
            panic!("{chat:?}\n{plain:?}");
        };
        for (side, text) in [(c, chosen), (r, rejected)] {
            let whole: Vec<_> = p.iter().chain(side).cloned().collect();
            assert_eq!(turns(&whole), dialogue(&format!("{prompt}{text}")));
        }
    }
    let (implicit, report) = load("derived/helpful_implicit_500.jsonl");
    assert_eq!(report.files[0].format, Some(Format::ImplicitConversational));
    assert_eq!(implicit.len(), 500);
    assert!(implicit == chat[..500], "implicit and explicit prompts differ");
}

fn llama_factory_is_the_same_in_every_form(data: &Path) {
    let folder = data.join("llamafactory-dpo");
    let load = |name: &str| examples(&folder.join(name), &Options::default()).unwrap();
    let (sharegpt, report) = load("dpo_en_demo.json");
    assert_eq!((sharegpt.len(), report.files[0].format), (300, Some(Format::Sharegpt)));
    let (lines, report) = load("dpo_en_conversational.jsonl");
    assert_eq!(report.files[0].format, Some(Format::Conversational));
    assert!(lines == sharegpt, "JSONL and ShareGPT differ");
    let (parquet, _) = load("dpo_en_conversational.parquet");
    assert!(parquet == sharegpt, "Parquet and ShareGPT differ");
    let (first, report) = load("v1_dpo_demo.jsonl");
    assert_eq!((first.len(), report.files[0].format), (10, Some(Format::LlamafactoryV1)));
    let Example::Chat { prompt, chosen, .. } = &first[0] else { panic!() };
    assert_eq!((turns(prompt).len(), chosen.len()), (2, 1), "system and user, then the answer");
}

fn pandalm_reports_its_empty_answers(data: &Path) {
    let path = data.join("pandalm/pandalm_pairs.jsonl");
    let error = examples(&path, &Options::default()).unwrap_err().to_string();
    assert!(error.contains("empty completion") && error.contains("pandalm_pairs.jsonl, row "), "{error}");
    let (pairs, report) = examples(&path, &dropping()).unwrap();
    // 888 rows; 51 + 1 + 1 counted by a Python script, of which the last was left out for its empty side already or not.
    assert_eq!(report.dirt[&Dirt::EmptyRejected].found, 51);
    assert_eq!(report.dirt[&Dirt::EmptyChosen].found, 1);
    assert_eq!(report.rows, 888);
    assert_eq!(pairs.len() + report.dropped(), 888);
    assert_eq!(report.columns_not_read, [("agreement".to_owned(), 888), ("idx".to_owned(), 888)].into());
    assert!(report.to_string().contains("empty rejected: 51 rows"), "{report}");
}

fn rejection_sampled_rows_load(data: &Path) {
    let path = data.join("hh-rlhf/helpful-rejection-sampled-test.older-revision.jsonl.gz");
    let (pairs, report) = examples(&path, &dropping()).unwrap();
    // 3 + 32, by the same Python script.
    assert_eq!(counts(&report)[..2], [(Dirt::DifferingPrompts, 3, 3), (Dirt::IdenticalPair, 32, 32)]);
    assert_eq!(pairs.len(), 2749 - 35);
}

fn renders_are_those_of_transformers(data: &Path) {
    let golden = std::fs::read(data.join("chat-templates/golden_renders_shared.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let special = ["bos_token", "eos_token", "unk_token", "pad_token"];
    let special = special.map(|name| (name, golden["context"][name].as_str().unwrap()));
    let (mut texts, mut spans, mut errors, mut wrong) = (0, 0, 0, Vec::new());
    for case in golden["renders"].as_array().unwrap() {
        let name = format!("{} {} {}", case["template"], case["conversation"], case["add_generation_prompt"]);
        let source = std::fs::read_to_string(data.join(case["template"].as_str().unwrap())).unwrap();
        // The golden file was rendered on this day.
        let template = ChatTemplate::new(&source, special, Some("2026-11-22")).unwrap();
        let messages = golden["conversations"][case["conversation"].as_str().unwrap()].as_array().unwrap();
        let rendered = template.render(messages, None, &Row::new(), case["add_generation_prompt"] == json!(true));
        match (rendered, &case["text"], &case["error"]) {
            (Err(_), Value::Null, Value::String(_)) => errors += 1,
            (Ok(r), Value::String(text), Value::Null) if r.text == *text => {
                texts += 1;
                if let Some(expected) = case["assistant_char_spans"].as_array() {
                    // Golden spans count characters, ours bytes.
                    let chars = |byte: usize| r.text[..byte].chars().count();
                    let got: Vec<_> = r.assistant.iter().map(|s| json!([chars(s.start), chars(s.end)])).collect();
                    if got == *expected {
                        spans += 1;
                    } else {
                        wrong.push(format!("{name}: spans {got:?}, expected {expected:?}"));
                    }
                }
            }
            (got, ..) => wrong.push(format!("{name}: {got:?}, expected {} {}", case["text"], case["error"])),
        }
    }
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong[..wrong.len().min(5)].join("\n"));
    // 155 + 149 texts, 149 of them with spans, and 14 errors stand in the file.
    assert_eq!((texts, spans, errors), (304, 149, 14));
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect()
}

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = tokenizer.decode_stream(false);
    let mut out: String = ids.iter().map(|id| decoder.push(*id).unwrap()).collect();
    out += &decoder.finish().unwrap();
    out
}

fn gpt2_agrees_with_golden_encodings(data: &Path) {
    let tokenizer = Tokenizer::from_folder(&data.join("gpt2-tokenizer")).unwrap();
    let golden = std::fs::read(data.join("gpt2-tokenizer/golden_encodings.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["distilgpt2"].as_array().unwrap();
    assert_eq!(cases.len(), 18);
    for case in cases {
        let got = tokenizer.encode(case["input"].as_str().unwrap(), true).unwrap();
        assert_eq!(got, ids(&case["encoded"]["input_ids"]), "{}", case["input"]);
        // The file's decoded texts were tidied up by the old default of transformers; the bytes themselves come back.
        assert_eq!(Some(tokenizer.decode(&got, false).unwrap().as_str()), case["input"].as_str());
        assert_eq!(Some(stream(&tokenizer, &got).as_str()), case["input"].as_str());
    }
    let text = golden["paragraph"]["text"].as_str().unwrap();
    assert_eq!(tokenizer.encode(text, true).unwrap(), ids(&golden["paragraph"]["token_ids"]));
    assert_eq!((tokenizer.eos_id(), tokenizer.prefix()), (Some(50256), &[][..]), "GPT-2 puts no BOS");
}

fn streamed_text_is_the_decoded_text(data: &Path) {
    for folder in ["gpt2-tokenizer", "stories260k-hf", "tinystories-656k-bf16"] {
        let tokenizer = Tokenizer::from_folder(&data.join(folder)).unwrap();
        for text in ["Once upon a time, there was a dog.", " It’s a “quoted” word — é 日本語 🦀!", "a\n\n b"]
        {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(stream(&tokenizer, &ids), tokenizer.decode(&ids, false).unwrap(), "{folder} {text:?}");
        }
    }
    // The first two of the four bytes of a crab, alone: held back until the end, then shown as what they are.
    let tokenizer = Tokenizer::from_folder(&data.join("gpt2-tokenizer")).unwrap();
    let crab = tokenizer.encode("🦀", false).unwrap();
    let mut decoder = tokenizer.decode_stream(true);
    assert_eq!(decoder.push(crab[0]).unwrap(), "");
    assert_eq!(decoder.finish().unwrap(), "\u{fffd}");
}

/// tinystories merges across the boundary in almost every pair.
fn boundary_policies_on_tinystories(data: &Path) {
    let tokenizer = Tokenizer::from_folder(&data.join("tinystories-656k-bf16")).unwrap();
    let path = data.join("hh-rlhf/derived/helpful_standard_short300.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let sources = [Source::from(path)];
    let with = |boundary| load(&sources, &tokenizer, &Options { boundary, ..Options::default() });
    let error = with(Boundary::Error).unwrap_err().to_string();
    for part in ["short300.jsonl, row 1", "not the first tokens", "\"separate\" or \"merge\""] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    let (separate, report) = with(Boundary::Separate).unwrap();
    let found = report.dirt[&Dirt::Boundary].found;
    assert_eq!((separate.len(), report.boundary_separate, report.boundary_merged), (300, found, 0));
    assert!(found > 290, "{found}");
    let (merge, report) = with(Boundary::Merge).unwrap();
    assert_eq!((merge.len(), report.boundary_merged, report.boundary_separate), (300, found, 0));
    assert!(report.boundary_tokens_moved >= found, "{report}");
    for (apart, merged) in separate.iter().zip(merge.iter()) {
        assert_eq!(apart.key, merged.key);
        for pair in [&apart, &merged] {
            assert_eq!(pair.prompt.first(), Some(&1), "BOS");
            assert_eq!(pair.prompt.iter().chain(&pair.chosen).filter(|id| **id == 1).count(), 1, "one BOS");
            for side in [&pair.chosen, &pair.rejected] {
                assert_eq!(side.iter().filter(|id| **id == 2).count(), 1, "one EOS");
                assert_eq!(side.last(), Some(&2), "EOS at the end");
            }
        }
        assert_eq!(merged.prompt[..], apart.prompt[..merged.prompt.len()]);
        // What merge reads is the text tokenised as a whole.
        let row: Value = serde_json::from_str(lines[merged.row - 1]).unwrap();
        for (side, field) in [(&merged.chosen, "chosen"), (&merged.rejected, "rejected")] {
            let text = [row["prompt"].as_str().unwrap(), row[field].as_str().unwrap()].concat();
            let whole = [tokenizer.encode(&text, true).unwrap(), vec![2]].concat();
            assert_eq!([&merged.prompt[..], side].concat(), whole);
        }
    }
    let text = tokenizer.decode(&[1, 400, 2], true).unwrap();
    assert!(!text.contains("_story"), "special tokens are skipped: {text:?}");
}

fn hh_rlhf_has_its_length_bias(data: &Path) {
    let source = [data.join("hh-rlhf/derived/helpful_standard.jsonl.gz").into()];
    let seen = inspect(&source, None, &Options::default(), 1).unwrap();
    // The figures stand in STATS.json beside the data, made by a Python script.
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(data.join("STATS.json")).unwrap()).unwrap();
    let stats = &stats["hh-helpful derived standard"];
    let close = |got: f64, key: &str| {
        let expected = stats[key].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-9 * expected.abs().max(1.0), "{key}: {got}, expected {expected}");
    };
    close(seen.report.pairs as f64, "rows");
    close(seen.chosen.mean, "mean_chars_chosen");
    close(seen.rejected.mean, "mean_chars_rejected");
    close(seen.chosen_longer.unwrap(), "frac_chosen_longer");
    close(seen.equally_long.unwrap(), "frac_equal_length");
    assert_eq!(seen.unit, "characters");

    let tokenizer = Tokenizer::from_folder(&data.join("stories260k-hf")).unwrap();
    let options = Options { max_length: Some(512), ..Options::default() };
    let seen = inspect(&source, Some(&tokenizer), &options, 3).unwrap();
    assert_eq!((seen.unit, seen.samples.len(), seen.report.pairs), ("tokens", 3, 2339));
    assert_eq!(seen.chosen.bins.iter().sum::<usize>(), 2339);
    let (max, overlong) = seen.overlong.unwrap();
    assert!(max == 512 && overlong > 0 && overlong < 2339, "{overlong}");
}

fn dirt_is_counted_not_refused(data: &Path) {
    let raw = [data.join("hh-rlhf/helpful-base-test.jsonl.gz").into()];
    let seen = inspect(&raw, None, &Options::default(), 0).unwrap();
    let found = |dirt: Dirt| seen.report.dirt[&dirt].found;
    assert_eq!([Dirt::DifferingPrompts, Dirt::IdenticalPair, Dirt::EmptyRejected].map(found), [9, 2, 4]);
    let text = seen.terminal(false);
    assert!(text.contains("prompts that differ: 9 rows") && text.contains("differing_prompts"), "{text}");
    // tinystories merges across the boundary, which `error` would refuse.
    let tokenizer = Tokenizer::from_folder(&data.join("tinystories-656k-bf16")).unwrap();
    let short = [data.join("hh-rlhf/derived/helpful_standard_short300.jsonl").into()];
    let seen = inspect(&short, Some(&tokenizer), &Options::default(), 0).unwrap();
    assert_eq!(seen.report.dirt[&Dirt::Boundary].found, seen.report.boundary_merged);
    assert!(seen.report.boundary_merged > 290);
}

/// The ids that TRL 1.16 makes of 16 hh-rlhf pairs with the stories260k tokenizer.
fn ids_are_those_of_trl(data: &Path) {
    let golden = std::fs::read(data.join("golden-trl/shared_trl_dpo_stories260k.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_slice(&golden).unwrap();
    let examples = golden["examples"].as_array().unwrap();
    assert_eq!(examples.len(), 16);
    let lines: Vec<_> = examples.iter().map(|e| e["text"].to_string()).collect();
    let (_guard, path) = file("pairs.jsonl", lines.join("\n"));
    let tokenizer = Tokenizer::from_folder(&data.join("stories260k-hf")).unwrap();
    let (dataset, report) = load(&[Source::from(path)], &tokenizer, &Options::default()).unwrap();
    assert_eq!((dataset.len(), report.rows, report.pairs), (16, 16, 16));
    let ids =
        |v: &serde_json::Value| v.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect::<Vec<_>>();
    for (i, (example, tokens)) in examples.iter().zip(dataset.iter()).enumerate() {
        assert_eq!(tokens.prompt, ids(&example["prompt_ids"]), "prompt {i}");
        assert_eq!(tokens.chosen, ids(&example["chosen_ids"]), "chosen {i}");
        assert_eq!(tokens.rejected, ids(&example["rejected_ids"]), "rejected {i}");
        assert_eq!(tokens.row, i + 1);
    }
}

fn special_tokens_of_a_checkpoint(data: &Path) {
    let stories = Tokenizer::from_folder(&data.join("stories260k-hf")).unwrap();
    assert_eq!((stories.bos_id(), stories.eos_id(), stories.stop_ids()), (Some(1), Some(2), &[2][..]));
    assert_eq!((stories.eos_token(), stories.prefix(), stories.vocab_size()), (Some("</s>"), &[1][..], 512));
    assert_eq!(stories.model_vocab_size(), Some(512));
}
