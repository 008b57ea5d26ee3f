"""What the compiled CPU kernels share: the compiler's interface, sixteen-lane arithmetic, half precision, threads."""
