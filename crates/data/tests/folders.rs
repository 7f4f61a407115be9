//! Data sets as folders: what `save_to_disk` writes, what a README declares, and what a source says for itself.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, MapBuilder, StringBuilder, StringDictionaryBuilder, StructBuilder};
use arrow_array::types::Int8Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, FixedSizeListArray, Float16Array, Float64Array, Int64Array, LargeStringArray,
    NullArray, RecordBatch, StringArray, StringViewArray, TimestampMicrosecondArray, UInt8Array,
};
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use arrow_schema::{DataType, Field};
use collimate_data::{Error, Example, Format, Options, Report, Source, Tokenizer, load, read};
use common::byte_tokenizer;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use serde_json::{Value, json};

fn all(sources: &[Source], options: &Options) -> Result<(Vec<Example>, Report), Error> {
    let mut out = Vec::new();
    let report = read(sources, options, &mut |_, example| {
        out.push(example);
        Ok(())
    })?;
    Ok((out, report))
}

/// The prompts of `sources`, joined.
fn prompts(sources: &[Source], options: &Options) -> Result<String, String> {
    let prompt = |e| match e {
        Example::Plain { prompt, .. } => prompt,
        Example::Chat { prompt, .. } => prompt.iter().filter_map(|m| m["content"].as_str()).collect(),
    };
    all(sources, options).map(|(all, _)| all.into_iter().map(prompt).collect()).map_err(|e| e.to_string())
}

fn split(name: &str) -> Options {
    Options { split: name.into(), ..Options::default() }
}

fn row(prompt: &str) -> String {
    json!({"prompt": prompt, "chosen": "y", "rejected": "n"}).to_string()
}

struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn assert_parts(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said:?}");
    }
}

/// A batch of strings, each column in another of Arrow's string types.
fn batch(prompts: &[&str]) -> RecordBatch {
    let other = |text: &str| vec![text.to_owned(); prompts.len()];
    let columns: [(&str, ArrayRef); 3] = [
        ("prompt", Arc::new(StringArray::from(prompts.to_vec()))),
        ("chosen", Arc::new(LargeStringArray::from(other("y")))),
        ("rejected", Arc::new(StringViewArray::from_iter_values(other("n")))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|b| writer.write(b).unwrap());
    writer.into_inner().unwrap()
}

/// What `save_to_disk` writes for one split.
fn save(desk: &Desk, folder: &str, split: &str, shards: &[&[RecordBatch]]) {
    let names: Vec<_> = (0..shards.len()).map(|i| format!("data-{i:05}-of-{:05}.arrow", shards.len())).collect();
    for (name, batches) in names.iter().zip(shards) {
        desk.put(&format!("{folder}{name}"), stream(batches));
    }
    let files: Vec<_> = names.iter().map(|n| json!({"filename": n})).collect();
    let state = json!({"_data_files": files, "_fingerprint": "f", "_format_columns": null, "_split": split});
    desk.put(&format!("{folder}state.json"), state.to_string());
    desk.put(&format!("{folder}dataset_info.json"), "{}");
}

#[test]
fn what_save_to_disk_wrote_is_read_in_its_order() {
    let desk = Desk::new();
    save(&desk, "", "test", &[&[batch(&["a", "b"]), batch(&["c"])], &[batch(&["d"])]]);
    desk.put("cache-1f.arrow", stream(&[batch(&["x"])]));
    let here = [desk.path().into()];
    let (pairs, report) = all(&here, &Options::default()).unwrap();
    assert_eq!(pairs.len(), 4);
    assert_eq!(prompts(&here, &Options::default()).unwrap(), "abcd");
    let rows: Vec<_> = report.files.iter().map(|f| (f.format, f.rows)).collect();
    assert_eq!(rows, [(Some(Format::Standard), 3), (Some(Format::Standard), 1)]);
    assert_eq!(report.files_not_read.len(), 3, "the two JSON files and the cache");
    // The folder says which split it is: another one is not to be had from it.
    assert_eq!(prompts(&here, &split("test")).unwrap(), "abcd");
    assert_parts(&prompts(&here, &split("dev")).unwrap_err(), &["no files of the split `dev`", "there are test"]);
    let asked = Source { split: Some("train".into()), ..desk.path().into() };
    assert_parts(&prompts(&[asked], &Options::default()).unwrap_err(), &["split `train`", "there are test"]);
    // The order is that of state.json, not of the names.
    let files =
        json!({"_data_files": [{"filename": "data-00001-of-00002.arrow"}, {"filename": "data-00000-of-00002.arrow"}]});
    desk.put("state.json", files.to_string());
    assert_eq!(prompts(&here, &Options::default()).unwrap(), "dabc");
}

#[test]
fn a_saved_dictionary_of_splits_is_read_by_split() {
    let desk = Desk::new();
    desk.put("dataset_dict.json", r#"{"splits": ["train", "test_sft"]}"#);
    save(&desk, "train/", "train", &[&[batch(&["a"])]]);
    save(&desk, "test_sft/", "test_sft", &[&[batch(&["b"])]]);
    let here = [desk.path().into()];
    assert_eq!(prompts(&here, &Options::default()).unwrap(), "a");
    assert_eq!(prompts(&here, &split("test_sft")).unwrap(), "b");
    assert_parts(&prompts(&here, &split("test")).unwrap_err(), &["no files of the split `test`", "train, test_sft"]);
    // The folder of one split, by its path.
    assert_eq!(prompts(&[desk.path().join("test_sft").into()], &Options::default()).unwrap(), "b");
    let named = Source { name: Some("main".into()), ..desk.path().into() };
    assert_parts(&prompts(&[named], &Options::default()).unwrap_err(), &["`name = \"main\"`", "README"]);
    desk.put("dataset_dict.json", r#"{"splits": "train"}"#);
    assert_parts(&prompts(&here, &Options::default()).unwrap_err(), &["dataset_dict.json", "`splits`"]);
}

#[test]
fn saved_folders_that_are_not_whole_are_refused() {
    let desk = Desk::new();
    let said = |state: Value| {
        desk.put("state.json", state.to_string());
        prompts(&[desk.path().into()], &Options::default()).unwrap_err()
    };
    let whole = stream(&[batch(&["a"]), batch(&["b"])]);
    let one = json!([{"filename": "data.arrow"}]);
    assert_parts(&said(json!({"_data_files": one})), &["data.arrow", "cannot open"]);
    desk.put("data.arrow", &whole);
    assert_parts(
        &said(json!({"_data_files": one, "_indices_data_files": [{"filename": "i.arrow"}]})),
        &["state.json", "`_indices_data_files`", "flatten_indices"],
    );
    assert_parts(&said(json!({"_data_files": []})), &["state.json", "lists no files"]);
    assert_parts(&said(json!({"_data_files": [{"filename": "../data.arrow"}]})), &["state.json", "../data.arrow"]);
    // Cut off between two batches, where Arrow's own reader sees nothing wrong; and inside one.
    for end in [whole.len() - 8, whole.len() - 60] {
        desk.put("data.arrow", &whole[..end]);
        assert_parts(&said(json!({"_data_files": one})), &["data.arrow", "without its end mark"]);
    }
    desk.put("data.arrow", [&whole[..], &whole].concat());
    assert_parts(&said(json!({"_data_files": one})), &["data.arrow", "more bytes after the end"]);
}

#[test]
fn arrow_has_every_kind_of_column() {
    let messages = |role: &str, texts: [Option<&str>; 2]| -> ArrayRef {
        let fields = [("role", DataType::Utf8), ("content", DataType::Utf8)].map(|(n, t)| Field::new(n, t, true));
        let mut list = ListBuilder::new(StructBuilder::from_fields(fields.to_vec(), 2));
        for text in texts {
            let message = list.values();
            message.field_builder::<StringBuilder>(0).unwrap().append_value(role);
            message.field_builder::<StringBuilder>(1).unwrap().append_option(text);
            message.append(true);
            list.append(true);
        }
        Arc::new(list.finish())
    };
    let mut kwargs = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    kwargs.keys().append_value("tone");
    kwargs.values().append_value("dry");
    kwargs.append(true).unwrap();
    kwargs.append(false).unwrap();
    let mut kind = StringDictionaryBuilder::<Int8Type>::new();
    kind.extend([Some("k"), None]);
    let floats = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0, 4.0]));
    let item = Arc::new(Field::new("item", DataType::Float64, true));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("prompt", messages("user", [Some("a"), Some("b")])),
        ("chosen", messages("assistant", [Some("y"), Some("z")])),
        ("rejected", messages("assistant", [Some("n"), Some("o")])),
        ("chat_template_kwargs", Arc::new(kwargs.finish())),
        ("tools", Arc::new(StringArray::from(vec![Some("[{\"name\": \"f\"}]"), None]))),
        ("kind", Arc::new(kind.finish())),
        ("score", Arc::new(Int64Array::from(vec![Some(3), None]))),
        ("rank", Arc::new(UInt8Array::from(vec![1, 2]))),
        ("half", Arc::new(Float16Array::from_iter_values([half::f16::from_f32(0.5); 2]))),
        ("flag", Arc::new(BooleanArray::from(vec![true, false]))),
        ("none", Arc::new(NullArray::new(2))),
        ("when", Arc::new(TimestampMicrosecondArray::from(vec![1, 2]).with_timezone("UTC"))),
        ("vector", Arc::new(FixedSizeListArray::new(item, 2, floats, None))),
        ("raw", Arc::new(BinaryArray::from_vec(vec![&b"x"[..], b"y"]))),
    ];
    let desk = Desk::new();
    let first = RecordBatch::try_from_iter_with_nullable(columns.iter().map(|(n, c)| (*n, c.clone(), true))).unwrap();
    let path = desk.put("rows.arrow", stream(&[first.slice(0, 1), first.slice(1, 1)]));
    let rows = [
        json!({"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "y"}],
               "rejected": [{"role": "assistant", "content": "n"}], "chat_template_kwargs": {"tone": "dry"},
               "tools": "[{\"name\": \"f\"}]"}),
        json!({"prompt": [{"role": "user", "content": "b"}], "chosen": [{"role": "assistant", "content": "z"}],
               "rejected": [{"role": "assistant", "content": "o"}], "tools": null}),
    ];
    let lines = desk.put("rows.jsonl", rows.map(|r| r.to_string()).join("\n"));
    let (expected, _) = all(&[lines.into()], &Options::default()).unwrap();
    let (got, report) = all(&[path.into()], &Options::default()).unwrap();
    assert_eq!(got, expected);
    let unread: Vec<_> = report.columns_not_read.keys().map(String::as_str).collect();
    assert_eq!(unread, ["flag", "half", "kind", "none", "rank", "raw", "score", "vector", "when"]);

    // The same values as text where text is expected, so that they show in the refusal.
    for (column, expected) in [
        ("kind", "the row has `kind`"),
        ("score", "found the number 3"),
        ("half", "found the number 0.5"),
        ("flag", "found the boolean true"),
        ("none", "found null"),
        ("when", "found the number 1"),
        ("vector", "found a list"),
    ] {
        let index = first.schema().index_of(column).unwrap();
        let columns: Vec<(&str, ArrayRef)> = vec![
            (if column == "kind" { "kind" } else { "prompt" }, first.column(index).clone()),
            ("chosen", Arc::new(StringArray::from(vec!["y"; 2]))),
            ("rejected", Arc::new(StringArray::from(vec!["n"; 2]))),
        ];
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        let path = desk.put("odd.arrow", stream(&[batch]));
        let options = Options { format: Some(Format::Standard), ..Options::default() };
        assert_parts(&prompts(&[path.into()], &options).unwrap_err(), &["odd.arrow, row 1", expected]);
    }
    let twice = [("prompt", "a"), ("prompt", "b")].map(|(n, t)| {
        let column: ArrayRef = Arc::new(StringArray::from(vec![t]));
        (n, column)
    });
    let path = desk.put("twice.arrow", stream(&[RecordBatch::try_from_iter(twice).unwrap()]));
    let said = prompts(&[path.into()], &Options::default()).unwrap_err();
    assert_parts(&said, &["twice.arrow, row 1", "`prompt` stands twice"]);
    let bytes: [(&str, ArrayRef); 1] = [("image", Arc::new(BinaryArray::from_vec(vec![&b"\xff"[..]])))];
    let path = desk.put("bytes.arrow", stream(&[RecordBatch::try_from_iter(bytes).unwrap()]));
    assert_parts(&prompts(&[path.into()], &Options::default()).unwrap_err(), &["`image`", "not UTF-8"]);
}

/// What current `datasets` keeps a `Json()` in, as a file of Arrow and of Parquet: text that is to be parsed. A null in it
/// was written by the user; one of a struct is there because all structs have the same fields.
#[test]
fn columns_of_json_are_parsed_at_any_depth() {
    let arguments = [r#"{"city": "Rome", "day": null}"#, "null", r#"[1, {"a": "b"}]"#];
    let json: std::collections::HashMap<_, _> = [("ARROW:extension:name".to_owned(), "arrow.json".to_owned())].into();
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let call = vec![text("name"), text("arguments").with_metadata(json.clone()), text("id")];
    let calls = StructBuilder::from_fields(call.clone(), 3);
    let item = Arc::new(Field::new("item", DataType::Struct(call.into()), true));
    let calls = ListBuilder::new(calls).with_field(item.clone());
    let fields = vec![text("role"), text("content"), Field::new("tool_calls", DataType::List(item), true)];
    let boxed: Vec<Box<dyn arrow_array::builder::ArrayBuilder>> =
        vec![Box::new(StringBuilder::new()), Box::new(StringBuilder::new()), Box::new(calls)];
    let mut chosen = StructBuilder::new(fields, boxed);
    for arguments in arguments {
        chosen.field_builder::<StringBuilder>(0).unwrap().append_value("assistant");
        chosen.field_builder::<StringBuilder>(1).unwrap().append_null();
        let calls = chosen.field_builder::<ListBuilder<StructBuilder>>(2).unwrap();
        let call = calls.values();
        call.field_builder::<StringBuilder>(0).unwrap().append_value("f");
        call.field_builder::<StringBuilder>(1).unwrap().append_value(arguments);
        call.field_builder::<StringBuilder>(2).unwrap().append_null();
        call.append(true);
        calls.append(true);
        chosen.append(true);
    }
    let chosen: ArrayRef = Arc::new(chosen.finish());
    let tools = r#"[{"name": "f", "parameters": {"default": null, "x": "{}"}}]"#;
    let plain = |name: &str, value: &str| (text(name), Arc::new(StringArray::from(vec![value; 3])) as ArrayRef);
    let (mut fields, mut columns): (Vec<_>, Vec<_>) = [
        plain("prompt", "q"),
        (Field::new("chosen", chosen.data_type().clone(), true), chosen),
        plain("rejected", r#"{"role": "assistant", "content": "n"}"#),
        plain("tools", tools),
    ]
    .into_iter()
    .unzip();
    for i in [2, 3] {
        fields[i] = fields[i].clone().with_metadata(json.clone());
    }
    let batch = |columns| RecordBatch::try_new(Arc::new(arrow_schema::Schema::new(fields.clone())), columns).unwrap();
    let desk = Desk::new();
    let arrow = desk.put("rows.arrow", stream(&[batch(columns.clone())]));

    let schema = "message rows {
        OPTIONAL BYTE_ARRAY prompt (UTF8);
        OPTIONAL GROUP chosen {
            OPTIONAL BYTE_ARRAY role (UTF8);
            OPTIONAL BYTE_ARRAY content (UTF8);
            OPTIONAL GROUP tool_calls (LIST) { REPEATED GROUP list { OPTIONAL GROUP element {
                OPTIONAL BYTE_ARRAY name (UTF8);
                OPTIONAL BYTE_ARRAY arguments (JSON);
                OPTIONAL BYTE_ARRAY id (UTF8);
            } } }
        }
        OPTIONAL BYTE_ARRAY rejected (JSON);
        OPTIONAL BYTE_ARRAY tools (JSON);
    }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Default::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let same = |text: &str| vec![text.to_owned(); 3];
    let nested: Vec<_> = arguments.map(String::from).to_vec();
    // Each column with the levels at which its values, or its nulls, stand.
    for (values, level, repeated) in [
        (same("q"), 1, false),
        (same("assistant"), 2, false),
        (vec![], 1, false),
        (same("f"), 5, true),
        (nested, 5, true),
        (vec![], 4, true),
        (same(r#"{"role": "assistant", "content": "n"}"#), 1, false),
        (same(tools), 1, false),
    ] {
        let values: Vec<ByteArray> = values.iter().map(|v| ByteArray::from(v.as_str())).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let repetition = repeated.then_some(&[0, 0, 0][..]);
        column.typed::<ByteArrayType>().write_batch(&values, Some(&[level; 3]), repetition).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    let parquet = desk.put("rows.parquet", writer.into_inner().unwrap());

    let rows = arguments.map(|arguments| {
        let arguments: Value = serde_json::from_str(arguments).unwrap();
        json!({"prompt": "q", "rejected": {"role": "assistant", "content": "n"}, "tools": serde_json::from_str::<Value>(tools).unwrap(),
               "chosen": {"role": "assistant", "content": null, "tool_calls": [{"name": "f", "arguments": arguments}]}})
    });
    let lines = desk.put("rows.jsonl", rows.map(|r| r.to_string()).join("\n"));
    let (expected, _) = all(&[lines.into()], &Options::default()).unwrap();
    assert_eq!(expected.len(), 3);
    for path in [arrow, parquet] {
        assert_eq!(all(&[path.clone().into()], &Options::default()).unwrap().0, expected, "{}", path.display());
    }
    // What cannot be parsed is a row that cannot be read.
    columns[3] = Arc::new(StringArray::from(vec!["[]", "[", "{\"a\": 1, \"a\": 2}"]));
    let path = desk.put("odd.arrow", stream(&[batch(columns)]));
    let said = prompts(&[path.clone().into()], &Options::default()).unwrap_err();
    assert_parts(&said, &["odd.arrow, row 2", "`tools`", "malformed_row", "2 of the 3 rows"]);
    let drop = Options { malformed_row: collimate_data::options::Policy::Drop, ..Options::default() };
    assert_eq!(all(&[path.into()], &drop).unwrap().0.len(), 1);
}

#[test]
fn feather_files_are_read_however_compressed() {
    let desk = Desk::new();
    let b = batch(&["a", "b"]);
    for (name, compression) in
        [("plain", None), ("lz4", Some(CompressionType::LZ4_FRAME)), ("zstd", Some(CompressionType::ZSTD))]
    {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &b.schema(), options).unwrap();
        writer.write(&b).unwrap();
        let path = desk.put(name, writer.into_inner().unwrap());
        assert_eq!(prompts(&[path.into()], &Options::default()).unwrap(), "ab", "{name}");
    }
}

/// Whatever byte of an Arrow file is another: rows or an error, no panic, and no more memory than the file speaks for.
#[test]
fn damaged_arrow_files_are_refused() {
    let desk = Desk::new();
    let b = batch(&["a", "b"]);
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD)).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &b.schema(), options).unwrap();
    writer.write(&b).unwrap();
    let mut refused = 0;
    for (name, whole) in [("a.arrow", stream(&[b])), ("b.feather", writer.into_inner().unwrap())] {
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] = [0x00, 0x7f, 0xff][at % 3];
            let path = desk.put(name, bytes);
            refused += usize::from(prompts(&[path.into()], &Options::default()).is_err());
        }
    }
    assert!(refused > 300, "{refused}");
    // A body and a column that ask for more than there is.
    let whole = stream(&[batch(&["a"])]);
    let size = |bytes: &[u8]| {
        let path = desk.put("c.arrow", bytes);
        prompts(&[path.into()], &Options::default()).unwrap_err()
    };
    let mut long = whole.clone();
    long[4..8].copy_from_slice(&i32::MAX.to_le_bytes());
    assert_parts(&size(&long), &["c.arrow", "beyond the end of the file"]);
}

#[test]
fn parquet_is_read_however_compressed() {
    let desk = Desk::new();
    let schema = "message rows { REQUIRED BYTE_ARRAY prompt (UTF8); REQUIRED BYTE_ARRAY chosen (UTF8); \
                  REQUIRED BYTE_ARRAY rejected (UTF8); }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let text = "how long is a long prompt? ".repeat(100);
    for codec in [
        Compression::UNCOMPRESSED,
        Compression::SNAPPY,
        Compression::GZIP(Default::default()),
        Compression::ZSTD(ZstdLevel::default()),
        Compression::LZ4,
        Compression::LZ4_RAW,
    ] {
        let properties = Arc::new(WriterProperties::builder().set_compression(codec).build());
        let mut writer = SerializedFileWriter::new(Vec::new(), schema.clone(), properties).unwrap();
        let mut group = writer.next_row_group().unwrap();
        for value in [text.as_str(), "y", "n"] {
            let mut column = group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&[ByteArray::from(value)], None, None).unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        let path = desk.put("rows.parquet", writer.into_inner().unwrap());
        assert_eq!(prompts(&[path.into()], &Options::default()).unwrap(), text, "{codec}");
    }
}

/// Three columns in two row groups, under one encoding.
fn encoded(encoding: Encoding, version: WriterVersion, rows: usize, prompt: impl Fn(usize) -> ByteArray) -> Vec<u8> {
    let text = ["prompt", "chosen", "rejected"].map(|name| format!("REQUIRED BYTE_ARRAY {name} (UTF8); ")).concat();
    let schema = format!("message rows {{ {text} OPTIONAL INT64 n; }}");
    let schema = Arc::new(parquet::schema::parser::parse_message_type(&schema).unwrap());
    let of = if encoding == Encoding::DELTA_BINARY_PACKED { Encoding::PLAIN } else { encoding };
    let properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_data_page_size_limit(64 << 20)
        .set_encoding(of)
        .set_column_encoding("n".into(), Encoding::DELTA_BINARY_PACKED);
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build())).unwrap();
    for group in 0..2 {
        let mut columns = writer.next_row_group().unwrap();
        for name in ["prompt", "chosen", "rejected"] {
            let value = |i| match name {
                "prompt" => prompt(group * rows + i),
                _ => format!("{name} {i}").into_bytes().into(),
            };
            let values: Vec<ByteArray> = (0..rows).map(value).collect();
            let mut column = columns.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
            column.close().unwrap();
        }
        let mut column = columns.next_column().unwrap().unwrap();
        let numbers: Vec<i64> = (0..rows as i64).map(|i| i * i).collect();
        column.typed::<Int64Type>().write_batch(&numbers, Some(&vec![1; rows]), None).unwrap();
        column.close().unwrap();
        columns.close().unwrap();
    }
    writer.into_inner().unwrap()
}

/// Such a page says itself how many values it holds, and the reader takes memory for all of them.
#[test]
fn parquet_pages_of_deltas_that_claim_too_much_are_refused() {
    let desk = Desk::new();
    let said = |i: usize| format!("why {}?", "so ".repeat(i % 7));
    let text = |i: usize| ByteArray::from(said(i).into_bytes());
    let all: String = (0..400).map(said).collect();
    let read = |bytes: Vec<u8>| prompts(&[desk.put("rows.parquet", bytes).into()], &Options::default());
    for (encoding, block) in [
        (Encoding::DELTA_LENGTH_BYTE_ARRAY, [0x80, 0x01, 4, 200, 1]),
        (Encoding::DELTA_BYTE_ARRAY, [0x80, 0x01, 4, 200, 1]),
        (Encoding::DELTA_BINARY_PACKED, [0x80, 0x02, 4, 200, 1]),
    ] {
        for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
            let sound = encoded(encoding, version, 200, text);
            assert_eq!(read(sound.clone()).as_ref(), Ok(&all), "{encoding}");
            let heads: Vec<_> = (0..sound.len() - 5).filter(|i| sound[*i..].starts_with(&block)).collect();
            let column = if encoding == Encoding::DELTA_BINARY_PACKED { "n" } else { "prompt" };
            // The first column of the first row group, and the last column of the second.
            for (at, group) in [(heads[0], 1), (heads[heads.len() - 1], 2)] {
                let mut broken = sound.clone();
                broken[at + 3..at + 8].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0x7f]);
                let said = read(broken).unwrap_err();
                let column = if group == 2 && column == "prompt" { "rejected" } else { column };
                let place =
                    format!("rows.parquet: the column `{column}`, row group {group}: a page of 200 values says");
                assert_parts(&said, &[&place, "34359738367"]);
            }
        }
    }
    // A length in place of a count: the first prefix or text.
    let sound = encoded(Encoding::DELTA_LENGTH_BYTE_ARRAY, WriterVersion::PARQUET_1_0, 200, text);
    let head = (0..sound.len()).find(|i| sound[*i..].starts_with(&[0x80, 0x01, 4, 200, 1])).unwrap();
    let mut broken = sound;
    broken[head + 5] = 0x7e;
    assert_parts(
        &read(broken).unwrap_err(),
        &["the column `prompt`, row group 1: the values of a page have", "damaged"],
    );
    // Texts that share nearly all of what they say are short in the file.
    let long = ByteArray::from(vec![b'a'; 1 << 20]);
    let same = encoded(Encoding::DELTA_BYTE_ARRAY, WriterVersion::PARQUET_1_0, 600, |i| {
        if i < 600 { long.clone() } else { text(i) }
    });
    assert!(same.len() < 4 << 20, "{}", same.len());
    let said = read(same).unwrap_err();
    assert_parts(&said, &["rows.parquet: the column `prompt`, row group 1:", "take 601 MiB", "at most 512 MiB"]);
}

#[test]
fn a_source_says_for_itself_what_the_others_do_not() {
    let desk = Desk::new();
    let a = desk.put("a.jsonl", json!({"question": "a", "chosen": "y", "rejected": "n"}).to_string());
    let b = desk.put("b.jsonl", json!({"prompt": "b", "question": 1, "chosen": "y", "rejected": "n"}).to_string());
    desk.put("c/train.jsonl", row("c"));
    desk.put("c/test.jsonl", row("d"));
    let columns = Some([("question".to_owned(), "prompt".to_owned())].into());
    let first = Source { columns, format: Some(Format::Standard), ..a.clone().into() };
    let third = Source { split: Some("test".into()), ..desk.path().join("c").into() };
    let sources = [first.clone(), b.clone().into(), third.clone()];
    assert_eq!(prompts(&sources, &Options::default()).unwrap(), "abd");
    // A slip in a column's name does not go unsaid, nor does a column of one of several sources count as one.
    let slip = Source { columns: Some([("qestion".to_owned(), "prompt".to_owned())].into()), ..b.clone().into() };
    let (_, report) = all(&[first.clone(), slip], &Options::default()).unwrap();
    assert_eq!(report.columns_not_found, ["qestion".to_owned()].into());
    assert_parts(&report.to_string(), &["columns to rename that no row has: qestion"]);
    // Each key alone falls back to the one for all.
    let global = Options { columns: first.columns.clone().unwrap(), ..split("test") };
    let own = Source { columns: Some(Default::default()), ..b.clone().into() };
    assert_eq!(prompts(&[a.clone().into(), own, desk.path().join("c").into()], &global).unwrap(), "abd");

    let wrong = Source { format: Some(Format::Alpaca), ..b.clone().into() };
    assert_parts(&prompts(&[wrong], &Options::default()).unwrap_err(), &["b.jsonl, row 1", "`instruction`", "alpaca"]);
    let wrong = Source { columns: Some([("question".into(), "promt".into())].into()), ..a.into() };
    assert_parts(&prompts(&[wrong], &Options::default()).unwrap_err(), &["a.jsonl", "`columns`", "promt", "prompt"]);
    let wrong = Source { split: Some("test".into()), ..b.clone().into() };
    assert_parts(&prompts(&[wrong], &Options::default()).unwrap_err(), &["b.jsonl", "`split = \"test\"`", "no splits"]);
    let wrong = Source { name: Some("main".into()), ..b.into() };
    assert_parts(&prompts(&[wrong], &Options::default()).unwrap_err(), &["b.jsonl", "`name = \"main\"`"]);

    // As configuration has it.
    let text = r#"{"path": "a", "weight": 0.5, "columns": {"q": "prompt"}, "format": "standard", "split": "test", "name": "m"}"#;
    let source: Source = serde_json::from_str(text).unwrap();
    assert_eq!((source.weight, source.format, source.split.as_deref()), (0.5, Some(Format::Standard), Some("test")));
    assert_eq!(serde_json::to_value(&source).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    let plain = serde_json::to_value(Source::from("a")).unwrap();
    assert_eq!(plain, json!({"path": "a", "weight": 1.0}));
    let said = serde_json::from_str::<Source>(r#"{"path": "a", "colums": {}}"#).unwrap_err().to_string();
    assert_parts(&said, &["`colums`", "`path`", "`weight`", "`columns`", "`format`", "`split`", "`name`"]);
}

#[test]
fn the_cache_knows_what_a_source_says() {
    let (_g, folder) = byte_tokenizer();
    let tokenizer = Tokenizer::from_folder(&folder).unwrap();
    let desk = Desk::new();
    let path = desk.put("a.jsonl", json!({"p": "one", "q": "two", "chosen": "y", "rejected": "n"}).to_string());
    let options = Options { cache_dir: Some(desk.path().join("cache")), ..Options::default() };
    let with = |column: &str| {
        let source = Source { columns: Some([(column.to_owned(), "prompt".to_owned())].into()), ..path.clone().into() };
        let (data, report) = load(&[source], &tokenizer, &options).unwrap();
        (data.get(0).prompt, report.from_cache)
    };
    let (one, two) = (with("p"), with("q"));
    assert!(one.0 != two.0 && !one.1 && !two.1, "{one:?} {two:?}");
    assert_eq!((with("p"), with("q")), ((one.0, true), (two.0, true)));
}

#[test]
fn a_readme_says_which_files_are_which() {
    let desk = Desk::new();
    for (name, prompt) in [
        ("en/part-1.jsonl", "a"),
        ("en/part-2.jsonl", "b"),
        ("en/deep/er/part-3.jsonl", "c"),
        ("en/held.jsonl", "d"),
        ("de/train.jsonl", "e"),
        ("de/test.jsonl", "f"),
        ("odd [1].jsonl", "g"),
        ("train.jsonl", "never"),
    ] {
        desk.put(name, row(prompt));
    }
    desk.put("notes/readme.txt", "x");
    let readme = |configs: &str| {
        desk.put("README.md", format!("---\nlicense: mit\ntags: [a, 'b: c']\nconfigs:\n{configs}\n---\n# Pairs\n"));
    };
    let named = |name: &str| Options { dataset_config: Some(name.into()), ..Options::default() };
    let here = [desk.path().into()];
    let read = |options: &Options| prompts(&here, options);

    readme(
        "- config_name: english\n  default: true\n  data_files:\n  - split: train\n    path: [en/part-*.jsonl, en/**/part-3.jsonl]\n  - \
         split: held-out\n    path: \"en/held.jsonl\"\n- config_name: german\n  data_dir: de\n- config_name: odd\n  data_files: \
         'odd [1].jsonl'\n- config_name: all\n  data_dir: en\n  data_files: [\"**\"]",
    );
    assert_eq!(read(&Options::default()).unwrap(), "abc");
    assert_eq!(read(&split("held-out")).unwrap(), "d");
    assert_eq!(read(&named("german")).unwrap(), "e");
    assert_eq!(read(&Options { split: "test".into(), ..named("german") }).unwrap(), "f");
    assert_eq!(read(&named("odd")).unwrap(), "g");
    assert_eq!(read(&named("all")).unwrap(), "cdab");
    let german = Source { name: Some("german".into()), ..desk.path().into() };
    assert_eq!(prompts(&[german], &named("english")).unwrap(), "e", "a source's own name goes before");
    let (_, report) = all(&here, &Options::default()).unwrap();
    assert_eq!((report.files.len(), report.files_not_read.len()), (3, 7));

    let error = read(&split("dev")).unwrap_err();
    assert_parts(&error, &["README.md", "`english`", "no split `dev`", "`train`, `held-out`"]);
    assert_parts(
        &read(&named("french")).unwrap_err(),
        &["README.md", "no configuration `french`", "`english`, `german`, `odd`, `all`"],
    );
    readme("- config_name: a\n  data_files: en/held.jsonl\n- config_name: b\n  data_files: train.jsonl");
    assert_parts(&read(&Options::default()).unwrap_err(), &["`a`, `b`", "none by default", "`name`"]);
    readme("- config_name: a\n  data_files: en/held.jsonl\n- config_name: default\n  data_files: train.jsonl");
    assert_eq!(read(&Options::default()).unwrap(), "never");
    readme("- config_name: a\n  default: true\n  data_dir: en\n- config_name: default\n  data_files: train.jsonl");
    assert_parts(&read(&Options::default()).unwrap_err(), &["`a`, `default`", "several by default"]);
    readme("- config_name: only\n  data_files: ./en/held.jsonl");
    assert_eq!(read(&Options::default()).unwrap(), "d");

    for (configs, parts) in [
        ("- config_name: a\n  data_files: none-*.jsonl", ["\"none-*.jsonl\"", "no file is called so"]),
        ("- config_name: a\n  data_files: notes/*", ["notes/readme.txt", "not of a kind"]),
        ("- config_name: a\n  data_files: ../x.jsonl", ["\"../x.jsonl\"", "leads out"]),
        ("- config_name: a\n  data_files: hf://datasets/a/b.jsonl", ["hf://", "leads out"]),
        ("- config_name: a\n  data_files: x**.jsonl", ["x**.jsonl", "not a pattern"]),
        ("- config_name: a\n  data_files: {train: x.jsonl}", ["`data_files` of `a`", "{split, path}"]),
        ("- config_name: a\n  data_files:\n  - split: train\n    path: 3", ["`data_files` of `a`", "{split, path}"]),
        ("- config_name: a\n  data_dir: ../de", ["`data_dir` of `a`", "../de"]),
        ("- config_name: a\n  field: rows\n  data_files: train.jsonl", ["`field`", "line 6"]),
        ("- data_files: train.jsonl", ["config_name", "Name the data files"]),
        ("- a\n- b", ["`configs` can't be read", "Name the data files"]),
        ("- {config_name: a, data_files: [", ["`configs` can't be read", "Name the data files"]),
    ] {
        readme(configs);
        let error = read(&Options::default()).unwrap_err();
        assert_parts(&error, &["README.md"]);
        assert_parts(&error, &parts);
    }
    // A README without them changes nothing, and its YAML may be what it wants.
    desk.put("README.md", "---\ntags: [\n---\n");
    assert_eq!(read(&Options::default()).unwrap(), "enever");
    desk.put("README.md", "# configs:\n");
    assert_eq!(read(&Options::default()).unwrap(), "enever");
}

#[test]
fn splits_are_told_from_any_word_of_a_file_name() {
    let desk = Desk::new();
    for (name, prompt) in [("pairs_train.jsonl", "a"), ("pairs-test.jsonl", "b"), ("more.jsonl", "c")] {
        desk.put(name, row(prompt));
    }
    let here = [desk.path().into()];
    assert_eq!(prompts(&here, &Options::default()).unwrap(), "a");
    assert_eq!(prompts(&here, &split("test")).unwrap(), "b");
    // As the cache of datasets has them.
    let desk = Desk::new();
    desk.put("ultra-train.arrow", stream(&[batch(&["a"])]));
    desk.put("ultra-test.arrow", stream(&[batch(&["b"])]));
    assert_eq!(prompts(&[desk.path().into()], &split("test")).unwrap(), "b");
}
