"""Everything that `mbu demo` needs beyond the library: generated cell images, the nuclei loader, a data module."""
