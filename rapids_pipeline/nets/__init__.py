"""Neural nets of many targets: their settings, layers, losses and training. PyTorch is imported where a net is made.

Every net here is R nets at once (`rapids_pipeline.nets.layers`): replicas of one architecture are trained as one.
"""
