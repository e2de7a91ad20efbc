"""Predict how a small molecule changes the expression of every gene in a cell type.

Importing this package is cheap: it loads neither torch, cuDF, XGBoost, RDKit nor pandas.
"""

__version__ = "0.1.0"
