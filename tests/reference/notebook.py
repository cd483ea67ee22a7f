"""The notebooks' experiment from word list to loss, with plain tensors and Python loops."""

import random

import torch
import torch.nn.functional as F


def build_dataset(words, stoi, block_size):
    contexts, targets = [], []
    for word in words:
        context = [0] * block_size
        for character in word + ".":
            contexts.append(context)
            targets.append(stoi[character])
            context = [*context[1:], stoi[character]]
    return torch.tensor(contexts), torch.tensor(targets)


def dataset(words, block_size=3):
    """The training, validation and test examples and the vocabulary size."""
    stoi = {character: i + 1 for i, character in enumerate(sorted(set("".join(words))))} | {".": 0}
    words = list(words)
    random.seed(42)
    random.shuffle(words)
    n1, n2 = int(0.8 * len(words)), int(0.9 * len(words))
    parts = (words[:n1], words[n1:n2], words[n2:])
    return [build_dataset(part, stoi, block_size) for part in parts], len(stoi)


class Notebook:
    """The one-hidden-layer network, without norm or with running batch norm, and its training loop."""

    def __init__(self, seed, vocab_size, batch_norm, block_size=3, n_embd=10, n_hidden=200):
        g = self.g = torch.Generator().manual_seed(seed)
        fan_in = n_embd * block_size
        self.C = torch.randn((vocab_size, n_embd), generator=g)
        self.W1 = torch.randn((fan_in, n_hidden), generator=g) * (5 / 3) / fan_in**0.5
        self.b1 = None if batch_norm else torch.rand(n_hidden, generator=g) / n_hidden**0.5
        self.W2 = torch.randn((n_hidden, vocab_size), generator=g) * (2 / (n_hidden + vocab_size)) ** 0.5
        self.b2 = torch.rand(vocab_size, generator=g) / vocab_size**0.5
        self.gain, self.bias = (torch.ones((1, n_hidden)), torch.zeros((1, n_hidden))) if batch_norm else (None, None)
        self.mean_running = torch.zeros((1, n_hidden))
        self.std_running = torch.ones((1, n_hidden))
        everything = (self.C, self.W1, self.b1, self.W2, self.b2, self.gain, self.bias)
        self.parameters = [p for p in everything if p is not None]
        for p in self.parameters:
            p.requires_grad = True

    def logits(self, x, training):
        emb = self.C[x]
        hpreact = emb.view(emb.shape[0], -1) @ self.W1
        if self.gain is None:
            hpreact = hpreact + self.b1
        elif training:
            mean, std = hpreact.mean(0, keepdim=True), hpreact.std(0, keepdim=True)
            hpreact = self.gain * (hpreact - mean) / (std + 1e-5) + self.bias
            with torch.no_grad():
                self.mean_running = 0.999 * self.mean_running + 0.001 * mean
                self.std_running = 0.999 * self.std_running + 0.001 * std
        else:
            hpreact = self.gain * (hpreact - self.mean_running) / (self.std_running + 1e-5) + self.bias
        return torch.tanh(hpreact) @ self.W2 + self.b2

    def train(self, X, Y, updates, batch_size=32, drop_at=100_000):
        losses = []
        for i in range(updates):
            ix = torch.randint(0, X.shape[0], (batch_size,), generator=self.g)
            loss = F.cross_entropy(self.logits(X[ix], training=True), Y[ix])
            for p in self.parameters:
                p.grad = None
            loss.backward()
            lr = 0.1 if i < drop_at else 0.01
            for p in self.parameters:
                p.data += -lr * p.grad
            losses.append(loss.item())
        return losses

    @torch.no_grad()
    def split_loss(self, X, Y):
        return F.cross_entropy(self.logits(X, training=False), Y).item()

    @torch.no_grad()
    def sample(self, block_size=3):
        """The ids of one word, without its end."""
        out, context = [], [0] * block_size
        while True:
            probs = F.softmax(self.logits(torch.tensor([context]), training=False), dim=1)
            ix = torch.multinomial(probs, num_samples=1, generator=self.g).item()
            context = [*context[1:], ix]
            if ix == 0:
                return out
            out.append(ix)
