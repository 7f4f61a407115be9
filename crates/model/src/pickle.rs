//! `pytorch_model.bin`: a zip archive of stored entries, of which one is a pickle. It is read by a machine that knows the
//! few operations and the few names which tensors want, and nothing else: nothing of it is ever run.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;

use crate::error::Error;

/// Bytes of the pickle, and of the archive's directory, at most.
const INDEX_BYTES: u64 = 16 << 20;
/// Things on the stack and in the memo, and elements of all tuples and dictionaries, at most.
const MOST: usize = 1 << 20;
/// How deep tuples may lie in each other.
const DEEP: usize = 32;

/// What the machine handles.
#[derive(Clone, Debug)]
enum Item {
    Mark,
    None,
    Bool,
    Int(i64),
    Text(String),
    Tuple(Vec<Item>),
    /// `collections.OrderedDict` or a dictionary: by text, what the keys are; others are dropped.
    Dict(usize),
    Global(Global),
    Storage(Storage),
    Tensor(String, TensorInfo),
}

impl Item {
    /// How many things it is made of.
    fn weight(&self) -> usize {
        match self {
            Self::Tuple(items) => 1 + items.iter().map(Self::weight).sum::<usize>(),
            _ => 1,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Global {
    Rebuild,
    Parameter,
    OrderedDict,
    Storage(Dtype),
}

#[derive(Clone, Debug)]
struct Storage {
    dtype: Dtype,
    file: String,
    elements: usize,
}

/// The tensors of a file by name: type, shape and bytes in the file.
pub(crate) fn tensors(path: &Path) -> Result<BTreeMap<String, TensorInfo>, Error> {
    read(path).map_err(|why| Error::Pickle { path: path.to_owned(), why })
}

fn read(path: &Path) -> Result<BTreeMap<String, TensorInfo>, String> {
    if !std::fs::metadata(path).map_err(|e| e.to_string())?.is_file() {
        return Err("it is not a regular file".into());
    }
    let mut file = File::open(path).map_err(|e| e.to_string())?;
    let entries = entries(&mut file)?;
    let (name, at) = entries
        .iter()
        .find(|(n, _)| n.ends_with("/data.pkl") || *n == "data.pkl")
        .ok_or("it has no data.pkl; expected what torch.save writes since torch 1.6")?;
    let folder = name.strip_suffix("data.pkl").unwrap_or_default();
    if let Some((_, at)) = entries.iter().find(|(n, _)| **n == format!("{folder}byteorder")) {
        let order = bytes(&mut file, at, 16)?;
        if order != b"little" {
            return Err("its numbers are not little-endian".into());
        }
    }
    let pickle = bytes(&mut file, at, INDEX_BYTES)?;
    let mut all = BTreeMap::new();
    for (name, storage, info) in Machine::new(&pickle).run()? {
        let at = entries.get(&format!("{folder}data/{storage}")).ok_or(format!("{name}: no data/{storage} in it"))?;
        let (start, end) = info.data_offsets;
        if end as u64 > at.end - at.start {
            return Err(format!("{name}: data/{storage} has {} bytes, {end} are wanted", at.end - at.start));
        }
        let from = usize::try_from(at.start).map_err(|_| "too large for this machine")?;
        all.insert(name, TensorInfo { data_offsets: (from + start, from + end), ..info });
    }
    Ok(all)
}

fn bytes(file: &mut File, at: &Range<u64>, most: u64) -> Result<Vec<u8>, String> {
    let n = at.end - at.start;
    if n > most {
        return Err(format!("an entry of {n} bytes; at most {most} are read"));
    }
    let mut all = vec![0; n as usize];
    file.seek(SeekFrom::Start(at.start)).and_then(|_| file.read_exact(&mut all)).map_err(|e| e.to_string())?;
    Ok(all)
}

/// The stored entries of a zip archive, by name, with the bytes that they take of it (APPNOTE 6.3, 4.3).
fn entries(file: &mut File) -> Result<BTreeMap<String, Range<u64>>, String> {
    let length = file.seek(SeekFrom::End(0)).map_err(|e| e.to_string())?;
    let from = length.saturating_sub(66_000);
    let tail = bytes(file, &(from..length), 66_000)?;
    let end = (0..tail.len().saturating_sub(21)).rev().find(|i| tail[*i..].starts_with(b"PK\x05\x06"));
    let end = end.ok_or("it is no zip archive; expected what torch.save writes since torch 1.6, or safetensors")?;
    let short = |b: &[u8], at: usize| -> Option<u64> {
        Some(u64::from(u16::from_le_bytes(b.get(at..at + 2)?.try_into().ok()?)))
    };
    let word = |b: &[u8], at: usize| -> Option<u64> {
        Some(u64::from(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?)))
    };
    let long = |b: &[u8], at: usize| -> Option<u64> { Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?)) };
    let broken = "its directory is broken";
    let (mut size, mut start) = (word(&tail, end + 12).ok_or(broken)?, word(&tail, end + 16).ok_or(broken)?);
    // Zip64: a locator right before the end, which says where the longer end is.
    if let Some(at) = end.checked_sub(20).filter(|at| tail[*at..].starts_with(b"PK\x06\x07")) {
        let at = long(&tail, at + 8).ok_or(broken)?;
        if at.checked_add(56).is_none_or(|end| end > length) {
            return Err(broken.into());
        }
        let record = bytes(file, &(at..at + 56), 56)?;
        (size, start) = (long(&record, 40).ok_or(broken)?, long(&record, 48).ok_or(broken)?);
    }
    if start.checked_add(size).is_none_or(|end| end > length) {
        return Err(broken.into());
    }
    let directory = bytes(file, &(start..start + size), INDEX_BYTES)?;
    let (mut all, mut at) = (BTreeMap::new(), 0);
    while at < directory.len() {
        let entry = &directory[at..];
        if !entry.starts_with(b"PK\x01\x02") {
            return Err(broken.into());
        }
        let method = short(entry, 10).ok_or(broken)?;
        let (mut packed, whole) = (word(entry, 20).ok_or(broken)?, word(entry, 24).ok_or(broken)?);
        let [name, extra, comment] = [28, 30, 32].map(|i| short(entry, i).unwrap_or_default() as usize);
        let mut offset = word(entry, 42).ok_or(broken)?;
        let text = entry.get(46..46 + name).ok_or(broken)?;
        let text = std::str::from_utf8(text).map_err(|_| broken)?.to_owned();
        // The longer numbers stand in the extra field 1, in the order of those that don't fit.
        let mut field = entry.get(46 + name..46 + name + extra).ok_or(broken)?;
        while field.len() >= 4 {
            let (id, n) = (short(field, 0).ok_or(broken)?, short(field, 2).ok_or(broken)? as usize);
            let body = field.get(4..4 + n).ok_or(broken)?;
            if id == 1 {
                let mut place = if whole == u64::from(u32::MAX) { 8 } else { 0 };
                for value in [&mut packed, &mut offset] {
                    if *value == u64::from(u32::MAX) {
                        *value = long(body, place).ok_or(broken)?;
                        place += 8;
                    }
                }
            }
            field = &field[4 + n..];
        }
        if method != 0 {
            return Err(format!("{text} is compressed; torch stores entries as they are"));
        }
        let head = bytes(file, &(offset..offset.checked_add(30).filter(|e| *e <= length).ok_or(broken)?), 30)?;
        if !head.starts_with(b"PK\x03\x04") {
            return Err(broken.into());
        }
        let first = offset + 30 + short(&head, 26).ok_or(broken)? + short(&head, 28).ok_or(broken)?;
        let last = first.checked_add(packed).filter(|e| *e <= length).ok_or(broken)?;
        if all.insert(text.clone(), first..last).is_some() {
            return Err(format!("{text} is in it twice"));
        }
        at += 46 + name + extra + comment;
    }
    Ok(all)
}

/// The machine of pickle's operations (Python's pickletools), as far as tensors want them.
struct Machine<'a> {
    code: &'a [u8],
    at: usize,
    stack: Vec<Item>,
    memo: BTreeMap<u32, Item>,
    dicts: Vec<Vec<(Item, Item)>>,
    /// Elements made so far.
    made: usize,
}

type Found = (String, String, TensorInfo);

impl<'a> Machine<'a> {
    fn new(code: &'a [u8]) -> Self {
        Self { code, at: 0, stack: Vec::new(), memo: BTreeMap::new(), dicts: Vec::new(), made: 0 }
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(n).filter(|e| *e <= self.code.len()).ok_or("the pickle ends too early")?;
        let part = &self.code[self.at..end];
        self.at = end;
        Ok(part)
    }

    fn number(&mut self, n: usize) -> Result<u64, String> {
        Ok(self.take(n)?.iter().rev().fold(0, |all, b| (all << 8) | u64::from(*b)))
    }

    fn line(&mut self) -> Result<String, String> {
        let rest = &self.code[self.at..];
        let n = rest.iter().position(|b| *b == b'\n').ok_or("the pickle ends too early")?;
        let text = String::from_utf8_lossy(self.take(n)?).into_owned();
        self.take(1)?;
        Ok(text)
    }

    fn text(&mut self, n: usize) -> Result<Item, String> {
        let text = std::str::from_utf8(self.take(n)?).map_err(|_| "a text is not UTF-8")?;
        Ok(Item::Text(text.to_owned()))
    }

    fn push(&mut self, item: Item) -> Result<(), String> {
        self.count(1)?;
        self.stack.push(item);
        Ok(())
    }

    /// Counts what is made, before it is.
    fn count(&mut self, more: usize) -> Result<(), String> {
        self.made += more;
        if self.made > 8 * MOST || self.stack.len() >= MOST {
            return Err("the pickle makes more than any network wants".into());
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Item, String> {
        self.stack.pop().ok_or_else(|| "the pickle takes from an empty stack".into())
    }

    fn down_to_mark(&mut self) -> Result<Vec<Item>, String> {
        let mark = self.stack.iter().rposition(|i| matches!(i, Item::Mark)).ok_or("a mark is missing")?;
        let items = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(items)
    }

    fn tuple(&mut self, items: Vec<Item>) -> Result<(), String> {
        fn depth(item: &Item) -> usize {
            match item {
                Item::Tuple(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                _ => 0,
            }
        }
        let new = Item::Tuple(items);
        if depth(&new) > DEEP {
            return Err("tuples lie too deep in each other".into());
        }
        self.push(new)
    }

    fn remember(&mut self, key: u64) -> Result<(), String> {
        let top = self.stack.last().ok_or("the pickle remembers nothing")?;
        let (weight, key) = (top.weight(), u32::try_from(key).map_err(|_| "a memo's key is too large")?);
        self.count(weight)?;
        let top = self.stack.last().cloned().ok_or("the pickle remembers nothing")?;
        if self.memo.len() >= MOST {
            return Err("the pickle remembers more than any network wants".into());
        }
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Result<(), String> {
        let key = u32::try_from(key).unwrap_or(u32::MAX);
        let weight = self.memo.get(&key).ok_or("the pickle recalls what it never had")?.weight();
        self.count(weight)?;
        let item = self.memo.get(&key).cloned().ok_or("the pickle recalls what it never had")?;
        self.push(item)
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let storage = |dtype| Item::Global(Global::Storage(dtype));
        let item = match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Item::Global(Global::Rebuild),
            ("torch._utils", "_rebuild_parameter") => Item::Global(Global::Parameter),
            ("collections", "OrderedDict") => Item::Global(Global::OrderedDict),
            ("torch", "FloatStorage") => storage(Dtype::F32),
            ("torch", "HalfStorage") => storage(Dtype::F16),
            ("torch", "BFloat16Storage") => storage(Dtype::BF16),
            ("torch", "DoubleStorage") => storage(Dtype::F64),
            ("torch", "LongStorage") => storage(Dtype::I64),
            ("torch", "IntStorage") => storage(Dtype::I32),
            ("torch", "ShortStorage") => storage(Dtype::I16),
            ("torch", "CharStorage") => storage(Dtype::I8),
            ("torch", "ByteStorage") => storage(Dtype::U8),
            ("torch", "BoolStorage") => storage(Dtype::BOOL),
            _ => return Err(format!("the pickle asks for {module}.{name}, which no tensor wants; nothing was run")),
        };
        self.push(item)
    }

    fn set(&mut self, items: Vec<Item>) -> Result<(), String> {
        let Some(Item::Dict(at)) = self.stack.last() else {
            return Err("a key is set in what is no dictionary".into());
        };
        let at = *at;
        let mut items = items.into_iter();
        while let (Some(key), value) = (items.next(), items.next()) {
            self.dicts[at].push((key, value.ok_or("a key has no value")?));
        }
        Ok(())
    }

    fn dict(&mut self) -> Result<(), String> {
        self.dicts.push(Vec::new());
        self.push(Item::Dict(self.dicts.len() - 1))
    }

    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, global) = (self.pop()?, self.pop()?);
        let Item::Tuple(arguments) = arguments else { return Err("a call without a tuple of arguments".into()) };
        match (global, &arguments[..]) {
            (Item::Global(Global::OrderedDict), []) => self.dict(),
            (Item::Global(Global::Parameter), [tensor @ Item::Tensor(..), ..]) => self.push(tensor.clone()),
            (
                Item::Global(Global::Rebuild),
                [Item::Storage(s), Item::Int(offset), Item::Tuple(shape), Item::Tuple(strides), ..],
            ) => {
                let sizes = |items: &[Item]| -> Option<Vec<usize>> {
                    let one = |i: &Item| if let Item::Int(n) = i { usize::try_from(*n).ok() } else { None };
                    items.iter().map(one).collect()
                };
                let (shape, strides) = sizes(shape).zip(sizes(strides)).ok_or("a shape is none")?;
                let elements = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or("a shape is too large")?;
                let mut next = 1;
                for (size, stride) in shape.iter().zip(&strides).rev() {
                    if *size > 1 && *stride != next {
                        return Err("a tensor's rows don't lie one after the other; save it with .contiguous()".into());
                    }
                    next *= size.max(&1);
                }
                let first = usize::try_from(*offset).map_err(|_| "an offset is below 0")?;
                let end = first.checked_add(elements).filter(|e| *e <= s.elements);
                let (end, bytes) = (end.ok_or("a tensor reaches beyond its storage")?, s.dtype.bitsize() / 8);
                let at = first.checked_mul(bytes).zip(end.checked_mul(bytes)).ok_or("a tensor is too large")?;
                self.push(Item::Tensor(s.file.clone(), TensorInfo { dtype: s.dtype, shape, data_offsets: at }))
            }
            _ => Err("a call that no tensor wants; nothing was run".into()),
        }
    }

    fn storage(&mut self) -> Result<(), String> {
        let Item::Tuple(id) = self.pop()? else { return Err("a storage without a tuple".into()) };
        match &id[..] {
            [Item::Text(kind), Item::Global(Global::Storage(dtype)), Item::Text(file), _, Item::Int(n)]
                if kind == "storage" =>
            {
                let elements = usize::try_from(*n).map_err(|_| "a storage has less than no elements")?;
                self.push(Item::Storage(Storage { dtype: *dtype, file: file.clone(), elements }))
            }
            _ => Err("a storage that torch would not write".into()),
        }
    }

    fn run(mut self) -> Result<Vec<Found>, String> {
        loop {
            let op = self.take(1)?[0];
            match op {
                0x80 => drop(self.take(1)?),
                b'.' => break,
                b'(' => self.push(Item::Mark)?,
                b')' => self.tuple(Vec::new())?,
                b't' => {
                    let items = self.down_to_mark()?;
                    self.tuple(items)?;
                }
                0x85..=0x87 => {
                    let n = usize::from(op - 0x84);
                    let from = self.stack.len().checked_sub(n).ok_or("the pickle takes from an empty stack")?;
                    let items = self.stack.split_off(from);
                    self.tuple(items)?;
                }
                b'}' => self.dict()?,
                b'u' => {
                    let items = self.down_to_mark()?;
                    self.set(items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.set(vec![key, value])?;
                }
                b'N' => self.push(Item::None)?,
                0x88 | 0x89 => self.push(Item::Bool)?,
                b'K' | b'M' => {
                    let n = self.number(if op == b'K' { 1 } else { 2 })?;
                    self.push(Item::Int(n as i64))?;
                }
                b'J' => {
                    let n = self.number(4)? as u32 as i32;
                    self.push(Item::Int(n.into()))?;
                }
                0x8a => {
                    let n = self.number(1)? as usize;
                    if n > 8 {
                        return Err("a whole number has more than 64 bits".into());
                    }
                    let value = self.number(n)?;
                    let shift = 64 - 8 * n as u32;
                    self.push(Item::Int(if n == 0 { 0 } else { ((value << shift) as i64) >> shift }))?;
                }
                b'X' | 0x8c => {
                    let n = self.number(if op == b'X' { 4 } else { 1 })? as usize;
                    let text = self.text(n)?;
                    self.push(text)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(&module, &name)?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Item::Text(name), Item::Text(module)) => self.global(&module, &name)?,
                    _ => return Err("a name that is no text".into()),
                },
                b'q' | b'r' => {
                    let key = self.number(if op == b'q' { 1 } else { 4 })?;
                    self.remember(key)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' | b'j' => {
                    let key = self.number(if op == b'h' { 1 } else { 4 })?;
                    self.recall(key)?;
                }
                0x95 => drop(self.take(8)?),
                b'R' => self.reduce()?,
                b'Q' => self.storage()?,
                // What torch puts on a state dict beside its tensors: `_metadata`, which nothing here reads.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.stack.last(), Some(Item::Dict(_))) {
                        return Err("a state is set in what is no dictionary; nothing was run".into());
                    }
                }
                other => {
                    return Err(format!(
                        "the pickle has operation {other:#04x}, which no tensor wants; nothing was run"
                    ));
                }
            }
        }
        let Item::Dict(at) = self.pop()? else { return Err("it is no dictionary of tensors".into()) };
        let all = std::mem::take(&mut self.dicts[at]);
        let one = |(key, value)| match (key, value) {
            (Item::Text(name), Item::Tensor(file, info)) => Ok((name, file, info)),
            (Item::Text(name), other) => {
                let held = if matches!(other, Item::Dict(_)) {
                    "a dictionary: of a trainer's checkpoint?"
                } else {
                    "no tensor"
                };
                Err(format!("{name} is {held}; expected a dictionary of tensors"))
            }
            _ => Err("a key is no text; expected a dictionary of tensors".into()),
        };
        all.into_iter().map(one).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(code: &[u8]) -> String {
        Machine::new(code).run().unwrap_err()
    }

    #[test]
    fn what_is_no_tensor_is_refused_by_name_and_not_run() {
        let marker = std::env::temp_dir().join(format!("collimate-pickle-{}", std::process::id()));
        let command = format!("touch {}", marker.display());
        // What `pickle.dumps` makes of an object whose __reduce__ is (os.system, (command,)), in two protocols.
        let mut old = b"cposix\nsystem\n(X".to_vec();
        old.extend((command.len() as u32).to_le_bytes());
        old.extend(command.bytes().chain(*b"tR."));
        let mut new = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c".to_vec();
        new.push(command.len() as u8);
        new.extend(command.bytes().chain(*b"\x85R."));
        for code in [&old, &new] {
            assert!(said(code).contains("asks for posix.system"), "{}", said(code));
        }
        assert!(!marker.exists());
        for (code, part) in [
            (&b"\x80\x02cbuiltins\neval\n."[..], "builtins.eval"),
            (b"\x80\x02ctorch.hub\nload\n.", "torch.hub.load"),
            (b"(S'x'\nios\nsystem\n.", "operation 0x53"),
            (b"\x80\x02ccollections\nOrderedDict\n(X\x01\x00\x00\x00atR.", "a call that no tensor wants"),
            (b"\x80\x02}X\x01\x00\x00\x00aK\x01s.", "a is no tensor"),
            (b"\x80\x02h\x05.", "recalls"),
            (b"\x80\x02R.", "empty stack"),
            (b"\x80\x02", "ends too early"),
            (b"X\xff\xff\xff\x7f", "ends too early"),
        ] {
            assert!(said(code).contains(part), "{part}: {}", said(code));
        }
    }

    #[test]
    fn what_grows_without_end_is_refused() {
        let mut deep = b")".to_vec();
        deep.extend([0x85; 100]);
        assert!(said(&deep).contains("too deep"));
        // Each tuple has the last one twice.
        let mut wide = b"(".to_vec();
        wide.extend(vec![b'N'; 1000]);
        wide.extend(b"tq\x00");
        wide.extend([b'h', 0].repeat(MOST));
        assert!(said(&wide).contains("more than any network wants"));
        let mut doubled = b")q\x00".to_vec();
        doubled.extend(b"h\x00h\x00\x86q\x00".repeat(30));
        assert!(said(&doubled).contains("more than any network wants"));
    }
}
