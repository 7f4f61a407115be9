//! Rows of columnar files: Parquet, and the Arrow files that `save_to_disk` writes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::types::*;
use arrow_array::{Array, RecordBatch};
use arrow_ipc::reader::{FileReader as ArrowFile, StreamReader as ArrowStream};
use arrow_schema::{ArrowError, DataType, Field as ArrowField, IntervalUnit, TimeUnit};
use parquet::basic::{Compression, ConvertedType, LogicalType, Repetition};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::Value;

use crate::format::Row;
use crate::source::{self, Body, Counted, Raw};
use crate::{Error, pages, quiet};

type Sink<'s> = &'s mut dyn FnMut(Raw) -> ControlFlow<()>;

/// Runs a reader that panics on some broken files: that is bad input, not a fault of ours.
fn guard(path: &Path, kind: &str, read: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
    quiet::catch(read).unwrap_or_else(|| {
        Err(Error::file(path, format!("not {kind} file that can be read: its reader gave up on it")))
    })
}

pub(crate) fn parquet_rows(path: &Path, file: File, bytes: &AtomicU64, sink: Sink) -> Result<(), Error> {
    let size = file.metadata().map_err(Error::io(path, "read"))?.len();
    guard(path, "a Parquet", || {
        let bad =
            |e: parquet::errors::ParquetError| Error::file(path, format!("not a Parquet file that can be read: {e}"));
        let heads = file.try_clone().map_err(Error::io(path, "read"))?;
        let reader = SerializedFileReader::new(file).map_err(bad)?;
        codecs(reader.metadata()).map_err(|message| Error::file(path, message))?;
        pages::check(reader.metadata(), &heads).map_err(|message| Error::file(path, message))?;
        pages::deltas(&reader, &heads).map_err(|message| Error::file(path, message))?;
        let schema = reader.metadata().file_metadata().schema_descr().root_schema_ptr();
        let json = fields_of(&schema);
        let total = reader.metadata().file_metadata().num_rows().max(1) as u64;
        for (i, record) in reader.get_row_iter(None).map_err(bad)?.enumerate() {
            let body = body(group(&record.map_err(bad)?, &json, false));
            // Pages come in any order, so progress goes by rows.
            let (before, now) = (size * i as u64 / total, size * (i as u64 + 1) / total);
            bytes.fetch_add(now - before, Ordering::Relaxed);
            if sink(Raw { row: i + 1, body }).is_break() {
                break;
            }
        }
        Ok(())
    })
}

fn body(row: Result<Row, String>) -> Body {
    row.map_or_else(Body::Malformed, Body::Row)
}

/// Where the values of a Parquet column are text of JSON, which the reader of records does not tell from other text.
#[derive(Debug, PartialEq)]
enum Json {
    /// Nowhere in it.
    No,
    /// The value itself.
    Text,
    /// In the elements of a list, or the values of a map.
    Items(Box<Json>),
    /// In some fields of a group, by name.
    Fields(HashMap<String, Json>),
}

impl Json {
    fn items(self) -> Json {
        if self == Json::No { Json::No } else { Json::Items(Box::new(self)) }
    }

    fn field(&self, name: &str) -> &Json {
        if let Json::Fields(fields) = self { fields.get(name).unwrap_or(&Json::No) } else { &Json::No }
    }

    fn item(&self) -> &Json {
        if let Json::Items(item) = self { item } else { &Json::No }
    }
}

fn fields_of(group: &Type) -> Json {
    let fields: HashMap<_, _> = group
        .get_fields()
        .iter()
        .map(|field| {
            let info = field.get_basic_info();
            let repeated = info.has_repetition() && info.repetition() == Repetition::REPEATED;
            let json = json_of(field);
            (field.name().to_owned(), if repeated { json.items() } else { json })
        })
        .filter(|(_, json)| *json != Json::No)
        .collect();
    if fields.is_empty() { Json::No } else { Json::Fields(fields) }
}

/// By the rules by which the reader makes records of groups; see `is_element_type` there.
fn json_of(field: &Type) -> Json {
    let info = field.get_basic_info();
    let logical = info.logical_type_ref();
    if field.is_primitive() {
        let json = info.converted_type() == ConvertedType::JSON || matches!(logical, Some(LogicalType::Json));
        return if json { Json::Text } else { Json::No };
    }
    match (info.converted_type(), field.get_fields()) {
        (ConvertedType::LIST, [repeated]) if repeated.is_primitive() || !repeated.get_fields().is_empty() => {
            let by_name = repeated.name() == "array" || repeated.name().ends_with("_tuple");
            let element = match repeated.is_primitive() || repeated.get_fields().len() > 1 || by_name {
                true => repeated,
                false => &repeated.get_fields()[0],
            };
            json_of(element).items()
        }
        (ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE, [entries]) if entries.is_group() => {
            entries.get_fields().get(1).map_or(Json::No, |value| json_of(value)).items()
        }
        _ => fields_of(field),
    }
}

/// Refuses pages whose compression this build cannot undo before the first row is read.
fn codecs(metadata: &ParquetMetaData) -> Result<(), String> {
    let columns = metadata.row_groups().iter().flat_map(|group| group.columns());
    for column in columns {
        let codec = match column.compression() {
            Compression::BROTLI(_) => "Brotli",
            Compression::LZO => "LZO",
            _ => continue,
        };
        return Err(format!(
            "the column `{}` is compressed by {codec}, which is not read; write the file anew with zstd, snappy, gzip, \
             LZ4 or no compression",
            column.column_path().string()
        ));
    }
    Ok(())
}

/// Adds a field to a row or an object, in which no name stands twice.
fn put(row: &mut Row, name: &str, value: Value) -> Result<(), String> {
    match row.insert(name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(format!("the column `{name}` stands twice")),
    }
}

fn text(name: &str, bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| format!("the column `{name}` holds bytes that are not UTF-8"))?;
    Ok(text.into())
}

/// Whether a null in a field is what the user wrote: one in a struct is there because all structs of a column have the
/// same fields, but for the `content` of a message, for which templates ask.
fn said(name: &str, mut siblings: impl Iterator<Item = impl AsRef<str>>) -> bool {
    name == "content" && siblings.any(|field| field.as_ref() == "role")
}

/// `inner`: not the row itself.
fn group(record: &parquet::record::Row, json: &Json, inner: bool) -> Result<Row, String> {
    let mut row = Row::new();
    for (name, field) in record.get_column_iter() {
        if inner && matches!(field, Field::Null) && !said(name, record.get_column_iter().map(|(name, _)| name)) {
            continue;
        }
        put(&mut row, name, value(name, field, json.field(name))?)?;
    }
    Ok(row)
}

fn value(name: &str, field: &Field, json: &Json) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(b) => (*b).into(),
        Field::Byte(n) => (*n).into(),
        Field::Short(n) => (*n).into(),
        Field::Int(n) => (*n).into(),
        Field::Long(n) => (*n).into(),
        Field::UByte(n) => (*n).into(),
        Field::UShort(n) => (*n).into(),
        Field::UInt(n) => (*n).into(),
        Field::ULong(n) => (*n).into(),
        Field::Float16(x) => f64::from(*x).into(),
        Field::Float(x) => f64::from(*x).into(),
        Field::Double(x) => (*x).into(),
        Field::Str(text) => parsed(name, text.as_str().into(), *json == Json::Text)?,
        // Text without its annotation, as some writers leave it.
        Field::Bytes(bytes) => parsed(name, text(name, bytes.data())?, *json == Json::Text)?,
        Field::Group(record) => Value::Object(group(record, json, true)?),
        Field::ListInternal(list) => {
            list.elements().iter().map(|e| value(name, e, json.item())).collect::<Result<Vec<_>, _>>()?.into()
        }
        Field::MapInternal(map) => {
            let mut out = Row::new();
            for (key, v) in map.entries() {
                let Field::Str(key) = key else {
                    return Err(format!("the column `{name}` has a map without text keys"));
                };
                put(&mut out, key, value(name, v, json.item())?)?;
            }
            Value::Object(out)
        }
        // Dates, times and decimals: no format reads them, so text will do for the report.
        other => other.to_string().into(),
    })
}

/// What a text of JSON stands for, nulls in it included: they were written by the user.
fn parsed(name: &str, value: Value, json: bool) -> Result<Value, String> {
    match value {
        Value::String(text) if json => source::value(text.as_bytes())
            .map_err(|e| format!("the column `{name}` holds text of JSON that cannot be read: {e}")),
        value => Ok(value),
    }
}

/// Ends an Arrow stream: a message of no length.
const END: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];

/// The stream that `datasets` writes: a schema, and record batches after it.
pub(crate) fn arrow_stream_rows(path: &Path, mut file: Counted, sink: Sink) -> Result<(), Error> {
    // The reader takes a file that breaks off between two batches for a whole one.
    let mut end = [0; END.len()];
    let length = file.file.seek(SeekFrom::End(0)).map_err(Error::io(path, "read"))?;
    if length >= END.len() as u64 {
        file.file.seek(SeekFrom::End(-(END.len() as i64))).map_err(Error::io(path, "read"))?;
        file.file.read_exact(&mut end).map_err(Error::io(path, "read"))?;
    }
    if end != END {
        return Err(Error::file(path, "an Arrow stream without its end mark; expected a whole file: was it cut off?"));
    }
    let lengths = Lengths { file: &mut file.file, length };
    guard(path, "an Arrow", || lengths.of_stream().map_err(|why| unreadable(path, &why)))?;
    file.file.rewind().map_err(Error::io(path, "read"))?;
    guard(path, "an Arrow", || {
        let mut stream = ArrowStream::try_new(BufReader::with_capacity(1 << 18, file), None).map_err(bad(path))?;
        if batches(path, &mut stream, sink)?.is_break() {
            return Ok(());
        }
        match stream.get_mut().fill_buf().map_err(Error::io(path, "read"))? {
            [] => Ok(()),
            [..] => Err(Error::file(path, "more bytes after the end of the Arrow stream; expected one stream a file")),
        }
    })
}

/// The other form of Arrow on disk, Feather version 2.
pub(crate) fn arrow_file_rows(path: &Path, mut file: Counted, sink: Sink) -> Result<(), Error> {
    let length = file.file.seek(SeekFrom::End(0)).map_err(Error::io(path, "read"))?;
    let lengths = Lengths { file: &mut file.file, length };
    guard(path, "an Arrow", || lengths.of_file().map_err(|why| unreadable(path, &why)))?;
    file.file.rewind().map_err(Error::io(path, "read"))?;
    guard(path, "an Arrow", || {
        let reader = BufReader::with_capacity(1 << 18, file);
        batches(path, ArrowFile::try_new(reader, None).map_err(bad(path))?, sink).map(|_| ())
    })
}

/// Looks at what an Arrow file says of its own lengths before they are believed: its reader takes as much memory as they ask
/// for.
struct Lengths<'f> {
    file: &'f mut File,
    /// Of the file.
    length: u64,
}

/// Bytes of a batch that is compressed, and rows of a batch, at most.
const MAX_BUFFER: i64 = 512 << 20;
const MAX_ROWS: i64 = 1 << 31;

impl Lengths<'_> {
    fn read(&mut self, at: u64, n: u64) -> Result<Vec<u8>, String> {
        if at.checked_add(n).is_none_or(|end| end > self.length) {
            return Err(format!("{n} bytes are to be at {at}, beyond the end of the file: it is cut off or damaged"));
        }
        let mut bytes = vec![0; n as usize];
        self.file.seek(SeekFrom::Start(at)).map_err(|e| e.to_string())?;
        self.file.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    }

    fn number(&mut self, at: u64) -> Result<i32, String> {
        let bytes = self.read(at, 4)?;
        Ok(bytes.try_into().map_or(0, i32::from_le_bytes))
    }

    fn of_stream(mut self) -> Result<(), String> {
        let mut at = 0;
        while let Some((body, size)) = self.of_message(at)? {
            at = body + size;
        }
        Ok(())
    }

    fn of_file(mut self) -> Result<(), String> {
        // At the end stand the footer, its length, and the magic word.
        let end = self.length.checked_sub(10).ok_or("too short for an Arrow file")?;
        let length = u64::try_from(self.number(end)?).map_err(|_| "a footer of less than no bytes")?;
        let footer = self.read(end.checked_sub(length).ok_or("a footer longer than the file")?, length)?;
        let footer = arrow_ipc::root_as_footer(&footer).map_err(|e| e.to_string())?;
        for block in footer.dictionaries().into_iter().flatten().chain(footer.recordBatches().into_iter().flatten()) {
            let parts = [block.offset(), i64::from(block.metaDataLength()), block.bodyLength()];
            let inside = parts.iter().all(|n| (0..=self.length as i64).contains(n));
            if !inside || parts.iter().sum::<i64>() > self.length as i64 {
                return Err("the footer names a part beyond the end of the file: it is cut off or damaged".to_owned());
            }
            // Its reader takes the body from where the footer has it.
            let [at, head, size] = parts.map(|n| n as u64);
            if self.of_message(at)? != Some((at + head, size)) {
                return Err("the footer and a part of the file say different lengths: it is damaged".to_owned());
            }
        }
        Ok(())
    }

    /// Where the body of the message at a place begins, and its bytes; None at the end.
    fn of_message(&mut self, at: u64) -> Result<Option<(u64, u64)>, String> {
        let (length, head) = match self.number(at)? {
            -1 => (self.number(at + 4)?, at + 8),
            length => (length, at + 4), // as older versions wrote it
        };
        if length == 0 {
            return Ok(None);
        }
        let length = u64::try_from(length).map_err(|_| format!("a message of {length} bytes"))?;
        let bytes = self.read(head, length)?;
        let message = arrow_ipc::root_as_message(&bytes).map_err(|e| e.to_string())?;
        let body = head + length;
        let size = message.bodyLength();
        if size < 0 || body.checked_add(size as u64).is_none_or(|end| end > self.length) {
            return Err(format!("a message of {size} bytes, beyond the end of the file: it is cut off or damaged"));
        }
        let batch = message.header_as_record_batch().or_else(|| message.header_as_dictionary_batch()?.data());
        if let Some(batch) = batch {
            if !(0..=MAX_ROWS).contains(&batch.length()) {
                return Err(format!("a batch of {} rows; expected at most {MAX_ROWS}", batch.length()));
            }
            let mut all = 0i64;
            for buffer in batch.buffers().into_iter().flatten().filter(|_| batch.compression().is_some()) {
                let (from, n) = (buffer.offset(), buffer.length());
                if from < 0 || n < 8 || from.checked_add(n).is_none_or(|end| end > size) {
                    continue; // empty, or refused by the reader
                }
                let told = self.read(body + from as u64, 8)?.try_into().map_or(0, i64::from_le_bytes);
                all = all.saturating_add(told.max(0));
                if all > MAX_BUFFER {
                    return Err(format!("a batch of {all} bytes; expected at most {} MiB", MAX_BUFFER >> 20));
                }
            }
        }
        Ok(Some((body, size as u64)))
    }
}

fn bad(path: &Path) -> impl Fn(ArrowError) -> Error {
    move |e| unreadable(path, &e)
}

fn unreadable(path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::file(path, format!("not an Arrow file that can be read: {why}"))
}

fn batches(
    path: &Path,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    sink: Sink,
) -> Result<ControlFlow<()>, Error> {
    let mut row = 0;
    for batch in batches {
        let batch = batch.map_err(bad(path))?;
        let schema = batch.schema();
        for i in 0..batch.num_rows() {
            row += 1;
            let mut fields = Row::new();
            let filled = schema.fields().iter().zip(batch.columns()).try_for_each(|(field, column)| {
                cell(field.name(), is_json(field), column, i).and_then(|value| put(&mut fields, field.name(), value))
            });
            if sink(Raw { row, body: body(filled.map(|()| fields)) }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// What `datasets` keeps a `Json()` in.
fn is_json(field: &ArrowField) -> bool {
    field.extension_type_name() == Some("arrow.json")
}

fn list(name: &str, item: &ArrowField, items: &dyn Array) -> Result<Value, String> {
    (0..items.len()).map(|i| cell(name, is_json(item), items, i)).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

/// Value `i` of a column, as Parquet would give it.
fn cell(name: &str, json: bool, array: &dyn Array, i: usize) -> Result<Value, String> {
    if array.is_null(i) {
        return Ok(Value::Null);
    }
    if json {
        let text = cell(name, false, array, i)?;
        return parsed(name, text, true);
    }
    macro_rules! number {
        ($type:ty) => {
            array.as_primitive::<$type>().value(i).into()
        };
    }
    macro_rules! entry {
        ($key:ty) => {{
            let entries = array.as_dictionary::<$key>();
            match entries.key(i) {
                Some(key) => cell(name, false, entries.values(), key)?,
                None => Value::Null,
            }
        }};
    }
    Ok(match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => array.as_boolean().value(i).into(),
        DataType::Int8 => number!(Int8Type),
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::UInt8 => number!(UInt8Type),
        DataType::UInt16 => number!(UInt16Type),
        DataType::UInt32 => number!(UInt32Type),
        DataType::UInt64 => number!(UInt64Type),
        DataType::Float16 => f64::from(array.as_primitive::<Float16Type>().value(i)).into(),
        DataType::Float32 => f64::from(array.as_primitive::<Float32Type>().value(i)).into(),
        DataType::Float64 => number!(Float64Type),
        DataType::Utf8 => array.as_string::<i32>().value(i).into(),
        DataType::LargeUtf8 => array.as_string::<i64>().value(i).into(),
        DataType::Utf8View => array.as_string_view().value(i).into(),
        DataType::Binary => text(name, array.as_binary::<i32>().value(i))?,
        DataType::LargeBinary => text(name, array.as_binary::<i64>().value(i))?,
        DataType::BinaryView => text(name, array.as_binary_view().value(i))?,
        DataType::FixedSizeBinary(_) => text(name, array.as_fixed_size_binary().value(i))?,
        DataType::List(item) => list(name, item, &array.as_list::<i32>().value(i))?,
        DataType::LargeList(item) => list(name, item, &array.as_list::<i64>().value(i))?,
        DataType::ListView(item) => list(name, item, &array.as_list_view::<i32>().value(i))?,
        DataType::LargeListView(item) => list(name, item, &array.as_list_view::<i64>().value(i))?,
        DataType::FixedSizeList(item, _) => list(name, item, &array.as_fixed_size_list().value(i))?,
        DataType::Struct(fields) => {
            let mut out = Row::new();
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                if column.is_null(i) && !said(field.name(), fields.iter().map(|f| f.name())) {
                    continue;
                }
                put(&mut out, field.name(), cell(field.name(), is_json(field), column, i)?)?;
            }
            Value::Object(out)
        }
        DataType::Map(entry, _) => {
            let json =
                matches!(entry.data_type(), DataType::Struct(fields) if fields.get(1).is_some_and(|f| is_json(f)));
            let entries = array.as_map().value(i);
            let mut out = Row::new();
            for j in 0..entries.len() {
                let Value::String(key) = cell(name, false, entries.column(0), j)? else {
                    return Err(format!("the column `{name}` has a map without text keys"));
                };
                put(&mut out, &key, cell(name, json, entries.column(1), j)?)?;
            }
            Value::Object(out)
        }
        DataType::Dictionary(key, _) => match key.as_ref() {
            DataType::Int8 => entry!(Int8Type),
            DataType::Int16 => entry!(Int16Type),
            DataType::Int32 => entry!(Int32Type),
            DataType::Int64 => entry!(Int64Type),
            DataType::UInt8 => entry!(UInt8Type),
            DataType::UInt16 => entry!(UInt16Type),
            DataType::UInt32 => entry!(UInt32Type),
            _ => entry!(UInt64Type),
        },
        // Dates and times as the numbers they are kept in: no format reads them.
        DataType::Date32 => number!(Date32Type),
        DataType::Date64 => number!(Date64Type),
        DataType::Time32(TimeUnit::Second) => number!(Time32SecondType),
        DataType::Time32(_) => number!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => number!(Time64MicrosecondType),
        DataType::Time64(_) => number!(Time64NanosecondType),
        DataType::Timestamp(TimeUnit::Second, _) => number!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => number!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => number!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => number!(TimestampNanosecondType),
        DataType::Duration(TimeUnit::Second) => number!(DurationSecondType),
        DataType::Duration(TimeUnit::Millisecond) => number!(DurationMillisecondType),
        DataType::Duration(TimeUnit::Microsecond) => number!(DurationMicrosecondType),
        DataType::Duration(TimeUnit::Nanosecond) => number!(DurationNanosecondType),
        DataType::Interval(IntervalUnit::YearMonth) => number!(IntervalYearMonthType),
        DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(i).into(),
        DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(i).into(),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(i).into(),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(i).into(),
        other => {
            return Err(format!(
                "the column `{name}` is of Arrow's type {other}, which is not read; leave it out with remove_columns"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parquet::basic::{BrotliLevel, Type as Physical};
    use parquet::file::metadata::{ColumnChunkMetaData, FileMetaData, RowGroupMetaData};
    use parquet::schema::types::{SchemaDescriptor, Type as Schema};

    use super::*;

    /// The writer here has no Brotli either, so the footer is made by hand.
    #[test]
    fn codecs_that_are_not_read_are_named() {
        let said = |codec| {
            let column = Arc::new(Schema::primitive_type_builder("prompt", Physical::BYTE_ARRAY).build().unwrap());
            let schema = Arc::new(Schema::group_type_builder("rows").with_fields(vec![column]).build().unwrap());
            let schema = Arc::new(SchemaDescriptor::new(schema));
            let column = ColumnChunkMetaData::builder(schema.column(0)).set_compression(codec).build().unwrap();
            let group = RowGroupMetaData::builder(schema.clone()).set_column_metadata(vec![column]).build().unwrap();
            codecs(&ParquetMetaData::new(FileMetaData::new(1, 0, None, None, schema, None), vec![group]))
        };
        let brotli = said(Compression::BROTLI(BrotliLevel::default())).unwrap_err();
        assert!(brotli.contains("`prompt`") && brotli.contains("Brotli") && brotli.contains("zstd"), "{brotli}");
        assert!(said(Compression::LZO).unwrap_err().contains("LZO"));
        for codec in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::LZ4, Compression::LZ4_RAW] {
            assert_eq!(said(codec), Ok(()));
        }
    }
}
