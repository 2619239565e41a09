"""Speed: what each operation costs (`pods bench`), how that grows, what others need, and what the machine allows."""
