"""The paper's comparisons as data: what is compared, and what each run gave."""
