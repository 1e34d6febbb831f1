//! The seam to the disk: one folder of files, real or simulated.
