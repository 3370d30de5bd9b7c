"""What keeps calls back, seen and controlled by people: deduplication locks and circuit breakers, both in Redis."""
