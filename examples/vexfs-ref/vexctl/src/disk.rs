// SPDX-License-Identifier: GPL-2.0
//! What is on the medium: a transcription of vexfs_ref_fs.h, and the metadata of an empty volume.

pub const MAGIC: u32 = 0x4652_5856;
pub const VERSION: u32 = 1;
pub const BLOCK_SIZE: usize = 4096;
pub const INODE_SIZE: usize = 256;
pub const INODES_PER_BLOCK: u32 = (BLOCK_SIZE / INODE_SIZE) as u32;
pub const BITS_PER_BLOCK: u32 = (BLOCK_SIZE * 8) as u32;
pub const MIN_BLOCKS: u32 = 32;
pub const MAX_BLOCKS: u32 = 1 << 26;
pub const MAX_INODES: u32 = 1 << 26;
pub const LABEL_MAX: usize = 31;
const ROOT_INO: u32 = 1;
const STATE_CLEAN: u32 = 1;
const FT_DIR: u8 = 2;
/// Bytes of data an inode is made for, unless mkfs is told otherwise.
const BLOCKS_PER_INODE: u32 = 2;

pub type Block = [u8; BLOCK_SIZE];

/// CRC-32 as in zlib and the kernel's crc32_le(): reflected 0x04c11db7.
pub fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

fn put_u16(bytes: &mut [u8], offset: usize, value: u16) {
    bytes[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

pub fn get_u32(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

fn blocks_for(things: u32, per_block: u32) -> u32 {
    things / per_block + u32::from(things % per_block != 0)
}

/// Where the areas of a volume are, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub blocks: u32,
    pub inodes: u32,
    pub inode_bitmap: u32,
    pub inode_bitmap_blocks: u32,
    pub block_bitmap: u32,
    pub block_bitmap_blocks: u32,
    pub inode_table: u32,
    pub inode_table_blocks: u32,
    pub data: u32,
}

impl Layout {
    /// The layout of a volume of `bytes` bytes, or why there can be none.
    pub fn of_size(bytes: u64, inodes: Option<u32>) -> Result<Layout, String> {
        let whole = bytes / BLOCK_SIZE as u64;
        if whole < u64::from(MIN_BLOCKS) {
            return Err(format!(
                "{bytes} bytes are too few: a volume has at least {} bytes",
                MIN_BLOCKS as usize * BLOCK_SIZE
            ));
        }
        // What is beyond the largest volume stays unused.
        let blocks = whole.min(u64::from(MAX_BLOCKS)) as u32;
        let inodes = inodes.unwrap_or(blocks / BLOCKS_PER_INODE);
        if inodes == 0 || inodes > MAX_INODES {
            return Err(format!("{inodes} inodes are not possible"));
        }
        let inodes = blocks_for(inodes, INODES_PER_BLOCK) * INODES_PER_BLOCK;
        let inode_bitmap = 1;
        let inode_bitmap_blocks = blocks_for(inodes, BITS_PER_BLOCK);
        let block_bitmap = inode_bitmap + inode_bitmap_blocks;
        let block_bitmap_blocks = blocks_for(blocks, BITS_PER_BLOCK);
        let inode_table = block_bitmap + block_bitmap_blocks;
        let inode_table_blocks = blocks_for(inodes, INODES_PER_BLOCK);
        let data = inode_table + inode_table_blocks;
        // One block for the root directory, and one for a file.
        if data > blocks - 2 {
            return Err(format!(
                "{inodes} inodes take {data} of the {blocks} blocks and leave no room for data"
            ));
        }
        Ok(Layout {
            blocks,
            inodes,
            inode_bitmap,
            inode_bitmap_blocks,
            block_bitmap,
            block_bitmap_blocks,
            inode_table,
            inode_table_blocks,
            data,
        })
    }

    /// Blocks in use on an empty volume: metadata and the root directory.
    fn used_blocks(&self) -> u32 {
        self.data + 1
    }

    pub fn inode_bitmap_block(&self, index: u32) -> Block {
        bitmap_block(index, 1, self.inodes)
    }

    pub fn block_bitmap_block(&self, index: u32) -> Block {
        bitmap_block(index, self.used_blocks(), self.blocks)
    }

    pub fn superblock(&self, uuid: &[u8; 16], label: &str) -> Block {
        let mut block = [0; BLOCK_SIZE];
        let numbers = [
            MAGIC,
            VERSION,
            BLOCK_SIZE as u32,
            INODE_SIZE as u32,
            self.blocks,
            self.inodes,
            self.inode_bitmap,
            self.inode_bitmap_blocks,
            self.block_bitmap,
            self.block_bitmap_blocks,
            self.inode_table,
            self.inode_table_blocks,
            self.data,
            0, // features
            STATE_CLEAN,
            self.blocks - self.used_blocks(),
            self.inodes - 1,
        ];
        for (index, number) in numbers.iter().enumerate() {
            put_u32(&mut block, 4 + 4 * index, *number);
        }
        block[72..88].copy_from_slice(uuid);
        block[88..88 + label.len()].copy_from_slice(label.as_bytes());
        let checksum = crc32(&block[4..]);
        put_u32(&mut block, 0, checksum);
        block
    }

    /// The first block of the inode table, with the root directory's inode.
    pub fn first_inodes(&self, now: u64) -> Block {
        let mut block = [0; BLOCK_SIZE];
        let inode = &mut block[..INODE_SIZE];
        put_u32(inode, 4, 0o040_755);
        put_u32(inode, 8, 2); // links: "." and the root's own ".."
        put_u64(inode, 24, BLOCK_SIZE as u64);
        put_u32(inode, 32, 1); // blocks
        for offset in [40, 48, 56] {
            put_u64(inode, offset, now);
        }
        put_u32(inode, 80, self.data);
        let checksum = inode_checksum(ROOT_INO, inode);
        put_u32(inode, 0, checksum);
        block
    }

    pub fn root_directory(&self) -> Block {
        let mut block = [0; BLOCK_SIZE];
        let first = put_dirent(&mut block, 0, ".", 16);
        put_dirent(&mut block, first, "..", BLOCK_SIZE - first);
        block
    }
}

/// A record that names the root; returns where the next one begins.
fn put_dirent(block: &mut Block, offset: usize, name: &str, length: usize) -> usize {
    put_u32(block, offset, ROOT_INO);
    put_u16(block, offset + 4, length as u16);
    block[offset + 6] = name.len() as u8;
    block[offset + 7] = FT_DIR;
    block[offset + 8..offset + 8 + name.len()].copy_from_slice(name.as_bytes());
    offset + length
}

pub fn inode_checksum(ino: u32, inode: &[u8]) -> u32 {
    let mut bytes = ino.to_le_bytes().to_vec();
    bytes.extend_from_slice(&inode[4..INODE_SIZE]);
    crc32(&bytes)
}

/// Block `index` of a bitmap of `size` bits, the first `used` of them set, and those behind it.
fn bitmap_block(index: u32, used: u32, size: u32) -> Block {
    let mut block = [0; BLOCK_SIZE];
    let base = u64::from(index) * u64::from(BITS_PER_BLOCK);
    for bit in 0..BITS_PER_BLOCK {
        let number = base + u64::from(bit);
        if number < u64::from(used) || number >= u64::from(size) {
            block[bit as usize / 8] |= 1 << (bit % 8);
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn layout(bytes: u64) -> Layout {
        Layout::of_size(bytes, None).unwrap()
    }

    fn ones(block: &Block) -> u32 {
        block.iter().map(|byte| byte.count_ones()).sum()
    }

    #[test]
    fn crc32_is_the_one_of_zlib() {
        assert_eq!(crc32(b""), 0);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn areas_follow_each_other_without_gaps() {
        for bytes in [MIB / 8, MIB, 64 * MIB, 1024 * MIB, 4 * 1024 * MIB + 12345] {
            let layout = layout(bytes);
            assert_eq!(layout.inode_bitmap, 1);
            assert_eq!(layout.block_bitmap, 1 + layout.inode_bitmap_blocks);
            assert_eq!(
                layout.inode_table,
                layout.block_bitmap + layout.block_bitmap_blocks
            );
            assert_eq!(layout.data, layout.inode_table + layout.inode_table_blocks);
            assert!(layout.data < layout.blocks);
            assert_eq!(layout.inodes % INODES_PER_BLOCK, 0);
        }
    }

    #[test]
    fn a_64_mib_volume() {
        let layout = layout(64 * MIB);
        assert_eq!(layout.blocks, 16384);
        assert_eq!(layout.inodes, 8192);
        assert_eq!(layout.inode_table, 3);
        assert_eq!(layout.data, 3 + 512);
    }

    #[test]
    fn bitmaps_grow_with_the_volume() {
        let layout = layout(1024 * MIB);
        assert_eq!(layout.block_bitmap_blocks, 8);
        assert_eq!(layout.inode_bitmap_blocks, 4);
    }

    #[test]
    fn too_small_is_refused_with_the_limit() {
        let message = Layout::of_size(8192, None).unwrap_err();
        assert!(message.contains("131072"), "{message}");
        assert!(Layout::of_size(0, None).is_err());
        assert!(Layout::of_size(MIB / 8 - 1, None).is_err());
        assert!(Layout::of_size(MIB / 8, None).is_ok());
    }

    #[test]
    fn inodes_must_leave_room_for_data() {
        assert!(Layout::of_size(MIB, Some(1_000_000)).is_err());
        assert!(Layout::of_size(MIB, Some(0)).is_err());
        assert_eq!(Layout::of_size(MIB, Some(1)).unwrap().inodes, 16);
    }

    #[test]
    fn the_largest_volume_is_bounded() {
        assert_eq!(layout(1 << 60).blocks, MAX_BLOCKS);
    }

    #[test]
    fn superblock_has_its_magic_at_the_place_and_a_checksum() {
        let block = layout(MIB).superblock(&[7; 16], "name");
        assert_eq!(&block[4..8], b"VXRF");
        assert_eq!(get_u32(&block, 0), crc32(&block[4..]));
        assert_eq!(&block[72..88], &[7; 16]);
        assert_eq!(&block[88..93], b"name\0");
    }

    #[test]
    fn every_byte_of_the_superblock_counts() {
        let good = layout(MIB).superblock(&[0; 16], "");
        for index in (4..BLOCK_SIZE).filter(|index| *index < 128 || index % 61 == 0) {
            let mut bad = good;
            bad[index] ^= 1;
            assert_ne!(get_u32(&bad, 0), crc32(&bad[4..]), "byte {index}");
        }
    }

    #[test]
    fn free_counts_are_what_the_bitmaps_say() {
        for bytes in [MIB, 64 * MIB, 1024 * MIB] {
            let layout = layout(bytes);
            let set: u32 = (0..layout.block_bitmap_blocks)
                .map(|index| ones(&layout.block_bitmap_block(index)))
                .sum();
            let free = layout.block_bitmap_blocks * BITS_PER_BLOCK - set;
            let superblock = layout.superblock(&[0; 16], "");
            assert_eq!(get_u32(&superblock, 64), free);
            let set: u32 = (0..layout.inode_bitmap_blocks)
                .map(|index| ones(&layout.inode_bitmap_block(index)))
                .sum();
            let free = layout.inode_bitmap_blocks * BITS_PER_BLOCK - set;
            assert_eq!(get_u32(&superblock, 68), free);
        }
    }

    #[test]
    fn metadata_and_root_are_in_use_and_the_next_block_is_free() {
        let layout = layout(64 * MIB);
        let bits = layout.block_bitmap_block(0);
        let is_set = |bit: u32| bits[bit as usize / 8] & (1 << (bit % 8)) != 0;
        assert!((0..=layout.data).all(is_set));
        assert!(!is_set(layout.data + 1));
        assert!(is_set(layout.blocks));
    }

    #[test]
    fn root_inode_is_a_directory_with_two_links() {
        let layout = layout(MIB);
        let block = layout.first_inodes(1_700_000_000);
        assert_eq!(get_u32(&block, 4), 0o040_755);
        assert_eq!(get_u32(&block, 8), 2);
        assert_eq!(get_u32(&block, 80), layout.data);
        assert_eq!(get_u32(&block, 0), inode_checksum(1, &block[..INODE_SIZE]));
        assert!(block[INODE_SIZE..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn inode_checksum_knows_its_place() {
        let block = layout(MIB).first_inodes(0);
        let inode = &block[..INODE_SIZE];
        assert_ne!(inode_checksum(1, inode), inode_checksum(2, inode));
    }

    #[test]
    fn root_directory_records_fill_the_block() {
        let block = layout(MIB).root_directory();
        let length =
            |offset: usize| usize::from(block[offset + 4]) + 256 * usize::from(block[offset + 5]);
        assert_eq!(length(0), 16);
        assert_eq!(length(0) + length(16), BLOCK_SIZE);
        assert_eq!(&block[8..9], b".");
        assert_eq!(&block[24..26], b"..");
    }
}
