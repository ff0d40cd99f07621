//! Memory-mapped arrays: what user space writes and the programs read without a system call.
//!
//! An array is mapped piece by piece on first touch, because mapped BPF memory counts as this process's even where nothing was written.
//! All access is by aligned 8-byte words, so that no reader on either side ever sees half a word; records of several words are published by
//! writing them first and then, with [`Window::store_u64`], the word that makes them reachable. Next: [`crate::maps`].
#![expect(
    unsafe_code,
    reason = "a mapping shared with the kernel has no safe form"
)]

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::maps::Plain;
use crate::sys;

/// Bytes of one word.
const WORD: usize = 8;
/// Words of one mapped piece: 128 KiB, a multiple of every page size in use.
const PIECE_WORDS: usize = 16 * 1024;

/// An array of `T` shared with the programs. Clones share it.
///
/// The kernel rounds elements up to 8 bytes, and so does this type: element `i` begins at byte `i * round_up(size_of::<T>(), 8)`.
///
/// # Panics
///
/// Every access panics on an index beyond [`Window::len`] (as slices do), and when the address space for a new piece is exhausted (as
/// allocation does); [`Window::prepare`] maps pieces ahead of time.
pub struct Window<T> {
    words: Arc<Words>,
    len: u32,
    element: PhantomData<fn() -> T>,
}

enum Words {
    Memory(Box<[AtomicU64]>),
    Mapped {
        map: OwnedFd,
        n_words: usize,
        pieces: Box<[OnceLock<Piece>]>,
    },
}

/// One mapped piece of an array.
struct Piece {
    start: NonNull<AtomicU64>,
    n_words: usize,
}

// SAFETY: a piece is only ever read and written through `&AtomicU64`, which any thread may do; the mapping lives until the piece is dropped.
unsafe impl Send for Piece {}
// SAFETY: as above.
unsafe impl Sync for Piece {}

// === impl Window ===

impl<T: Plain> Window<T> {
    /// Bytes from one element to the next.
    pub const STRIDE: usize = size_of::<T>().div_ceil(WORD) * WORD;
    const WORDS_PER_ELEMENT: usize = Self::STRIDE / WORD;

    /// A zeroed array in this process only: same behaviour, no kernel.
    pub fn in_memory(len: u32) -> Self {
        let n_words = len as usize * Self::WORDS_PER_ELEMENT;
        let words = (0..n_words).map(|_| AtomicU64::new(0)).collect();
        Self {
            words: Arc::new(Words::Memory(words)),
            len,
            element: PhantomData,
        }
    }

    /// An array map of the kernel whose value size and length the caller has compared with `T` and `len`.
    pub(crate) fn over(map: OwnedFd, len: u32) -> Self {
        let n_words = len as usize * Self::WORDS_PER_ELEMENT;
        let pieces = (0..n_words.div_ceil(PIECE_WORDS))
            .map(|_| OnceLock::new())
            .collect();
        Self {
            words: Arc::new(Words::Mapped {
                map,
                n_words,
                pieces,
            }),
            len,
            element: PhantomData,
        }
    }

    /// Number of elements.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// No elements at all.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Maps the pieces that hold these elements, so that later access neither calls the kernel nor fails.
    pub fn prepare(&self, elements: std::ops::Range<u32>) -> std::io::Result<()> {
        if elements.is_empty() {
            return Ok(());
        }
        let first = self.word_index(elements.start, 0);
        let last = self.word_index(elements.end - 1, Self::STRIDE - WORD);
        for piece in first / PIECE_WORDS..=last / PIECE_WORDS {
            self.words.piece(piece)?;
        }
        Ok(())
    }

    /// Copies an element out, word by word. A record that another writer changes meanwhile may be torn between words, never within one.
    pub fn read(&self, index: u32) -> T {
        let first = self.word_index(index, 0);
        let mut value = T::new_zeroed();
        for (i, bytes) in value.as_mut_bytes().chunks_mut(WORD).enumerate() {
            let word = self
                .words
                .word(first + i)
                .load(Ordering::Acquire)
                .to_ne_bytes();
            bytes.copy_from_slice(&word[..bytes.len()]);
        }
        value
    }

    /// Reads an element by system call, which maps nothing: for scans of large arrays.
    pub fn lookup(&self, index: u32) -> std::io::Result<T> {
        match &*self.words {
            Words::Memory(_) => Ok(self.read(index)),
            Words::Mapped { map, .. } => {
                let mut value = T::new_zeroed();
                sys::lookup(map.as_fd(), &index.to_ne_bytes(), value.as_mut_bytes())?;
                Ok(value)
            }
        }
    }

    /// Writes an element with plain word stores, in ascending order: for records that nothing points at yet.
    pub fn write(&self, index: u32, value: &T) {
        let first = self.word_index(index, 0);
        for (i, bytes) in value.as_bytes().chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..bytes.len()].copy_from_slice(bytes);
            self.words
                .word(first + i)
                .store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    /// Publishes one aligned word of an element: everything written before is visible to whoever sees the new value.
    ///
    /// `byte_offset` is a multiple of 8 inside the element (`core::mem::offset_of!`).
    pub fn store_u64(&self, index: u32, byte_offset: usize, value: u64) {
        self.words
            .word(self.word_index(index, byte_offset))
            .store(value, Ordering::Release);
    }

    /// Reads one aligned word of an element.
    pub fn load_u64(&self, index: u32, byte_offset: usize) -> u64 {
        self.words
            .word(self.word_index(index, byte_offset))
            .load(Ordering::Acquire)
    }

    /// Bytes of this array that are mapped now (or allocated, in memory).
    pub fn mapped_bytes(&self) -> usize {
        match &*self.words {
            Words::Memory(words) => words.len() * WORD,
            Words::Mapped { pieces, .. } => pieces
                .iter()
                .filter_map(OnceLock::get)
                .map(|p| p.n_words * WORD)
                .sum(),
        }
    }

    fn word_index(&self, index: u32, byte_offset: usize) -> usize {
        assert!(
            index < self.len,
            "element {index} of an array of {}",
            self.len
        );
        assert!(
            byte_offset.is_multiple_of(WORD) && byte_offset < Self::STRIDE,
            "byte {byte_offset} is no word of an element of {} bytes",
            Self::STRIDE
        );
        index as usize * Self::WORDS_PER_ELEMENT + byte_offset / WORD
    }
}

impl<T> Clone for Window<T> {
    fn clone(&self) -> Self {
        Self {
            words: Arc::clone(&self.words),
            len: self.len,
            element: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Window<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Window")
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

// === impl Words ===

impl Words {
    fn word(&self, index: usize) -> &AtomicU64 {
        match self {
            Self::Memory(words) => &words[index],
            Self::Mapped { .. } => {
                let piece = self
                    .piece(index / PIECE_WORDS)
                    .unwrap_or_else(|error| panic!("no address space to map a BPF array: {error}"));
                &piece.words()[index % PIECE_WORDS]
            }
        }
    }

    fn piece(&self, number: usize) -> std::io::Result<&Piece> {
        let Self::Mapped {
            map,
            n_words,
            pieces,
        } = self
        else {
            static NOTHING: Piece = Piece {
                start: NonNull::dangling(),
                n_words: 0,
            };
            return Ok(&NOTHING);
        };
        if let Some(piece) = pieces[number].get() {
            return Ok(piece);
        }
        let first = number * PIECE_WORDS;
        let fresh = Piece::map(map, first, PIECE_WORDS.min(n_words - first))?;
        // Another thread may have mapped the same piece meanwhile: one of the two mappings is dropped.
        Ok(pieces[number].get_or_init(|| fresh))
    }
}

// === impl Piece ===

impl Piece {
    fn map(map: &OwnedFd, first_word: usize, n_words: usize) -> std::io::Result<Self> {
        let length = NonZeroUsize::new(n_words * WORD).expect("pieces are not empty");
        let offset =
            libc::off_t::try_from(first_word * WORD).expect("arrays are far below 2^63 bytes");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping at an address of the kernel's choice replaces nothing; the kernel checks offset and length.
        let start = unsafe {
            mmap(
                None,
                length,
                protection,
                MapFlags::MAP_SHARED,
                map.as_fd(),
                offset,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            n_words,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and maps `n_words` words until `self` is dropped (or is dangling with a length of zero); all
        // access on this side is atomic, and any bits are a valid `AtomicU64`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.n_words) }
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.n_words == 0 {
            return;
        }
        // SAFETY: `start` and the length are those of our own mapping, and no reference outlives `self`.
        let result = unsafe { munmap(self.start.cast(), self.n_words * WORD) };
        debug_assert!(result.is_ok(), "unmapping our own mapping");
    }
}

#[cfg(test)]
mod tests;
