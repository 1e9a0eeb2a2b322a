// SPDX-License-Identifier: GPL-3.0-or-later
//! Which Slurm release an installed plugin was built for, without loading it.
//!
//! Every Slurm plugin exports `const uint32_t plugin_version` (slurm/slurm.h, SLURM_VERSION_NUM). It is found through the
//! dynamic symbols of the ELF file (elf(5)); only 64-bit little-endian files are read, which all of EC2 runs.

use std::path::Path;

const SECTION_DYNSYM: u32 = 11;

/// The version number of a plugin file; `None` if there is no file.
pub fn version(path: &Path) -> Option<Result<u32, String>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(read(&bytes).ok_or_else(|| "it is no Slurm plugin".to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// `22.05.8` of 0x160508.
#[must_use]
pub fn shown(version: u32) -> String {
    format!("{}.{:02}.{}", version >> 16 & 0xff, version >> 8 & 0xff, version & 0xff)
}

struct Section {
    kind: u32,
    address: u64,
    offset: u64,
    size: u64,
    link: u32,
    entry: u64,
}

fn read(elf: &[u8]) -> Option<u32> {
    if elf.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = number::<8>(elf, 0x28)?;
    let (size, count) = (number::<2>(elf, 0x3a)?, number::<2>(elf, 0x3c)?);
    let sections: Vec<Section> = (0..count)
        .map(|index| {
            let at = table.checked_add(index.checked_mul(size)?)?;
            Some(Section {
                kind: u32::try_from(number::<4>(elf, at + 4)?).ok()?,
                address: number::<8>(elf, at + 0x10)?,
                offset: number::<8>(elf, at + 0x18)?,
                size: number::<8>(elf, at + 0x20)?,
                link: u32::try_from(number::<4>(elf, at + 0x28)?).ok()?,
                entry: number::<8>(elf, at + 0x38)?,
            })
        })
        .collect::<Option<_>>()?;
    let symbols = sections.iter().find(|section| section.kind == SECTION_DYNSYM)?;
    let names = sections.get(symbols.link as usize)?;
    for index in 0..symbols.size.checked_div(symbols.entry)? {
        let at = symbols.offset.checked_add(index * symbols.entry)?;
        let name = usize::try_from(names.offset.checked_add(number::<4>(elf, at)?)?).ok()?;
        if !elf.get(name..)?.starts_with(b"plugin_version\0") {
            continue;
        }
        let address = number::<8>(elf, at + 8)?;
        let home = sections.iter().find(|section| {
            section.address != 0 && address >= section.address && address - section.address < section.size
        })?;
        return u32::try_from(number::<4>(elf, home.offset + (address - home.address))?).ok();
    }
    None
}

fn number<const BYTES: usize>(elf: &[u8], at: u64) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = elf.get(at..at.checked_add(BYTES)?)?;
    Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_shown_as_slurm_writes_them() {
        assert_eq!(shown(0x16_05_08), "22.05.8");
        assert_eq!(shown(0x1a_05_03), "26.05.3");
    }

    #[test]
    fn what_is_no_plugin_is_told_apart() {
        assert_eq!(version(Path::new("/nonexistent")), None);
        assert!(version(Path::new("/etc/passwd")).expect("a file").is_err());
        let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
        assert_eq!(read(&own), None, "an ELF file without the symbol");
        for length in 0..64.min(own.len()) {
            assert_eq!(read(&own[..length]), None);
        }
        let mut broken = own[..4096].to_vec();
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..2_000 {
            let at = rng.usize(..64);
            broken[at] = rng.u8(..);
            let _ = read(&broken);
        }
    }
}
