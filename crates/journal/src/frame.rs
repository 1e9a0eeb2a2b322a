// SPDX-License-Identifier: GPL-3.0-or-later
//! Frames with checksums: `[length: u32 LE][crc32 of length and payload: u32 LE][payload]` after a magic line.

/// First bytes of the file; the number is the format's version.
pub const MAGIC: &[u8] = b"ec2fleet-journal 1\n";

const HEADER: usize = 8;

/// No frame is larger: a length above this is damage, not data.
const MAX_PAYLOAD: usize = 256 << 20;

/// Where reading ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The file ends inside its last frame, as after a crash while writing.
    Torn { at: usize },
    /// A frame's checksum is wrong, or bytes follow that are none of ours.
    Corrupt { at: usize },
}

/// The good frames at the beginning of a file.
#[derive(Debug)]
pub struct Scan<'a> {
    pub frames: Vec<&'a [u8]>,
    pub good_bytes: usize,
    pub damage: Option<Damage>,
}

/// Append one frame.
pub fn write(out: &mut Vec<u8>, payload: &[u8]) {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_le_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&checksum(length, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

/// Read frames until the end or the first damage.
///
/// # Errors
/// When the file does not begin as a journal does.
pub fn scan(bytes: &[u8]) -> Result<Scan<'_>, String> {
    if bytes.len() < MAGIC.len() {
        return if MAGIC.starts_with(bytes) {
            let damage = (!bytes.is_empty()).then_some(Damage::Torn { at: 0 });
            Ok(Scan { frames: Vec::new(), good_bytes: 0, damage })
        } else {
            Err("it does not begin as one".into())
        };
    }
    if !bytes.starts_with(MAGIC) {
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return Err(format!("it begins with {:?}", String::from_utf8_lossy(&line[..line.len().min(40)])));
    }
    let mut frames = Vec::new();
    let mut at = MAGIC.len();
    while at < bytes.len() {
        let Some((length, sum)) = header(&bytes[at..]) else {
            return Ok(Scan { frames, good_bytes: at, damage: Some(Damage::Torn { at }) });
        };
        let begin = at + HEADER;
        let size = u32::from_le_bytes(length) as usize;
        if size > MAX_PAYLOAD {
            return Ok(Scan { frames, good_bytes: at, damage: Some(Damage::Corrupt { at }) });
        }
        let Some(payload) = bytes.get(begin..begin + size) else {
            return Ok(Scan { frames, good_bytes: at, damage: Some(Damage::Torn { at }) });
        };
        if checksum(length, payload) != sum {
            return Ok(Scan { frames, good_bytes: at, damage: Some(Damage::Corrupt { at }) });
        }
        frames.push(payload);
        at = begin + size;
    }
    Ok(Scan { frames, good_bytes: at, damage: None })
}

fn header(bytes: &[u8]) -> Option<([u8; 4], u32)> {
    let length = bytes.get(0..4)?.try_into().ok()?;
    let sum = bytes.get(4..HEADER)?.try_into().ok()?;
    Some((length, u32::from_le_bytes(sum)))
}
