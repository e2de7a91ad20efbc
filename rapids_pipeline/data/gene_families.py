"""Gene families: sets of genes whose symbols say what they are, such as RPL and RPS for ribosomal proteins.

They were made here, of the naming of human genes alone. They serve to try `pathways` on the demo; for an analysis take
the sets of MSigDB, Reactome or WikiPathways.
"""

import re
from collections.abc import Sequence

FAMILIES = {
    "abhydrolase domain proteins": r"ABHD\d+[A-C]?",
    "ABC transporters": r"ABC[A-G]\d+",
    "aldehyde dehydrogenases": r"ALDH\d+([A-Z]\d+)?",
    "ATP synthase": r"ATP5(F1[A-E]|IF1|MC[1-3]|M[D-G]|P[BDFO])",
    "chaperonin TRiC": r"CCT[2-8][AB]?|TCP1",
    "cholesterol synthesis and uptake": (
        r"CYP51A1|DHCR(7|24)|EBP|FDFT1|FDPS|HMGCR|HMGCS1|HSD17B7|IDI1|INSIG1|LDLR|LSS|MSMO1|MVD|MVK|NSDHL|PMVK|SC5D|SQLE"
    ),
    "cytochrome c oxidase": r"COX(4I1|5[AB]|6A1|6B[12]|6C|7A2|7[BC]|8A)",
    "DEAD-box helicases": r"DDX\d+[ABXY]?",
    "heat-shock proteins": r"HSP([ABDEH]\d+[ABL]?|90A[AB]1|90B1)",
    "histones": r"HIST\dH[1-4][A-Z]*\d?",
    "HLA": r"HLA-[A-GD]\w*",
    "induced by interferon": r"IFI(6|27|35|44L?|H1)|IFIT[1-5]|IFITM[1-3]|ISG(15|20)|MX[12]|OAS[123L]",
    "interleukins": r"IL\d+[AB]?",
    "metallothioneins": r"MT1[A-Z]|MT2A",
    "mitochondrial ribosome": r"MRP[LS]\d+[A-C]?",
    "NADH dehydrogenase": r"NDUF[ABCSV]\d+",
    "proteasome": r"PSM[A-F]\d+",
    "ribosome": r"RP[LS]\d+[AXYL]?\d?|RPLP[0-2]|RPSA",
    "transfer RNA synthetases": r"[ACDFGHIKLMNQRSTVWY]ARS2?|EPRS",
    "tubulins": r"TUB[ABG]\d?[A-C]?",
    "vacuolar ATPase": r"ATP6V[01][A-H]\d?",
}
"""What the whole symbol of a gene of each family looks like."""


def gene_families(genes: Sequence[str]) -> str:
    """Return the families that have any of the genes, as GMT: a line a set, its name, a description and its genes."""
    lines = []
    for name, symbols in FAMILIES.items():
        if members := [gene for gene in genes if re.fullmatch(symbols, gene)]:
            lines.append("\t".join([name, "a gene family, by symbol", *members]) + "\n")
    return "".join(lines)
