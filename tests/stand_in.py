"""A stand-in for the engine TRL draws with, and for the server it draws at: what they are asked is what TRL asks.

The engine keeps its own copy of the weights it was sent, as vLLM does, and draws and scores with that alone.
"""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from unittest import mock

import torch
from transformers import AutoModelForCausalLM
from trl.trainer import grpo_trainer


class StandIn:
    """TRL's ``VLLMGeneration``, without vLLM."""

    made: list["StandIn"]

    def __init__(self, model, accelerator, processing_class, **given):
        self.policy, self.tokenizer, self.given, self.sent = model, processing_class, given, 0
        self.own = AutoModelForCausalLM.from_pretrained(model.name_or_path).eval()  # as vLLM reads it
        self.dice = torch.Generator().manual_seed(0)
        self.asked: list[list[int]] = []
        self.vllm_client = self  # of a server
        StandIn.made.append(self)

    def get_server_info(self):
        return {"model_config": {"logprobs_mode": "processed_logprobs"}}

    def sync_weights(self):
        self.sent += 1
        self.own.load_state_dict({name: value.detach().clone() for name, value in self.policy.named_parameters()})

    @torch.no_grad()
    def generate(self, prompts, images, num_generations, profiler=None):
        assert images is None and all(
            prompts[row] == prompts[row - row % num_generations] for row in range(len(prompts))
        )
        self.asked = prompts
        drawn = [self._one(prompt) for prompt in prompts]
        return prompts, [said for said, _ in drawn], [[[value] for value in of] for _, of in drawn], None

    def _one(self, prompt):
        how, said, log_probs = self.given["generation_kwargs"], [], []
        words = torch.tensor(how["allowed_token_ids"])
        while len(said) < self.given["max_completion_length"]:
            logits = self.own(torch.tensor([[*prompt, *said]])).logits[0, -1, words]
            likely = (logits / self.given["temperature"]).log_softmax(0)
            place = int(torch.multinomial(likely.exp(), 1, generator=self.dice))
            said.append(int(words[place]))
            log_probs.append(float(likely[place]))
            if said[-1] in how["stop_token_ids"]:
                break
        return said, log_probs


@contextmanager
def standing_in(engine=StandIn):
    """Within the block TRL's trainer makes a stand-in instead of its engine; gives the list of those it made."""
    StandIn.made = []
    with mock.patch.object(grpo_trainer, "VLLMGeneration", engine):
        yield StandIn.made


@contextmanager
def server_that_says(answers):
    """An HTTP server on this machine that gives ``answers`` by path, or what they make of what is posted; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self, posted=None):
            found = answers.get(self.path.split("?")[0])
            self.send_response(404 if found is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(found(posted) if callable(found) else found).encode())

        def do_GET(self):
            self.answer()

        def do_POST(self):
            self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
