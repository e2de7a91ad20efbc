"""How well methods predict real responses: our recipes beside baselines and libraries."""
