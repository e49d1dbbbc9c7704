"""New stores out of existing ones: merged, or migrated to another tokenizer. A store itself never changes."""
